"""What the checks of nodes and networks measure with; each hands back plain values, and judges nothing."""
