"""Training of transformers on CPU clusters with nothing but MPI and Slurm."""

__version__ = "0.1.0"
