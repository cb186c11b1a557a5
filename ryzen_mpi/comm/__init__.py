"""torch.distributed out of a communicator."""
