"""All-reduce: the sum of all ranks' vectors on every rank, as osu_allreduce measures it.

    mpirun -np 2 python benchmarks/osu_allreduce.py --backend all -m 4:16M -c -T bfloat16

`--help` lists the options, `ryzen-mpi bench osu_allreduce` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("osu_allreduce")
