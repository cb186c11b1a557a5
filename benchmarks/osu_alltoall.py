"""All-to-all: a message of every rank for every rank, as osu_alltoall measures it.

    mpirun -np 2 python benchmarks/osu_alltoall.py --backend raw,mpi,gloo -m 1:1M -c

`--help` lists the options, `ryzen-mpi bench osu_alltoall` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("osu_alltoall")
