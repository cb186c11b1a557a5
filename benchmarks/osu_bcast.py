"""Broadcast: rank 0's message on every rank, as osu_bcast measures it.

    mpirun -np 2 python benchmarks/osu_bcast.py --backend all -m 1:4M -c

`--help` lists the options, `ryzen-mpi bench osu_bcast` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("osu_bcast")
