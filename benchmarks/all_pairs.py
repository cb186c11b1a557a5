"""Latency and bandwidth between all pairs of ranks, as matrices in mpiGraph's form.

    mpirun -np 4 python benchmarks/all_pairs.py --backend raw -m 1:1M

`--help` lists the options, `ryzen-mpi bench all_pairs` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("all_pairs")
