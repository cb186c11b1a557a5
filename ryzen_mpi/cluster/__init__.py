"""Where the ranks are: world, topology, binding, network. Nothing here imports torch."""
