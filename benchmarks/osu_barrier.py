"""Barrier: all ranks wait for one another, as osu_barrier measures it.

    mpirun -np 2 python benchmarks/osu_barrier.py --backend all

`--help` lists the options, `ryzen-mpi bench osu_barrier` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("osu_barrier")
