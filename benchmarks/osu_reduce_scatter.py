"""Reduce-scatter: the sum, a part of it to each rank, as osu_reduce_scatter measures it.

    mpirun -np 2 python benchmarks/osu_reduce_scatter.py --backend all -m 8:16M -c

`--help` lists the options, `ryzen-mpi bench osu_reduce_scatter` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("osu_reduce_scatter")
