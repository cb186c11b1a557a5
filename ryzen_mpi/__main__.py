"""`python -m ryzen_mpi` is `ryzen-mpi`."""

from ryzen_mpi.cli import main

main()
