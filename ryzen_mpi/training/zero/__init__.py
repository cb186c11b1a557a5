"""ZeRO: gradients, moments and master weights cut among the ranks; a node's ranks compute with one copy of weights."""
