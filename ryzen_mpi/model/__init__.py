"""The transformer and the operations that make it fast on CPUs."""
