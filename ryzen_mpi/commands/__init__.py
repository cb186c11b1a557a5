"""The commands of `ryzen-mpi`, one a module; heavy imports inside."""
