"""All-reduce written as a ring of messages, to hold beside what libraries do.

    mpirun -np 2 python benchmarks/ring_allreduce.py --backend raw,mpi,gloo -m 64K:16M -c

`--help` lists the options, `ryzen-mpi bench ring_allreduce` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("ring_allreduce")
