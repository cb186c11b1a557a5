"""How throughput follows the number of ranks: measured, decomposed, fitted, predicted."""
