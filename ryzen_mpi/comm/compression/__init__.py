"""Gradients in fewer bytes where they cross from node to node; inside a node nothing is compressed."""
