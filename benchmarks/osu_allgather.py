"""All-gather: every rank's part on every rank, as osu_allgather measures it.

    mpirun -np 2 python benchmarks/osu_allgather.py --backend all -m 4:4M -c

`--help` lists the options, `ryzen-mpi bench osu_allgather` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("osu_allgather")
