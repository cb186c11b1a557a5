"""All-reduce written as a binary tree of messages, to hold beside what libraries do.

    mpirun -np 2 python benchmarks/tree_allreduce.py --backend raw,mpi,gloo -m 4:64K -c

`--help` lists the options, `ryzen-mpi bench tree_allreduce` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("tree_allreduce")
