"""Bandwidth between two ranks: windows of 64 messages one way, as osu_bw measures it.

    mpirun -np 2 python benchmarks/osu_bw.py --backend raw,mpi -m 1K:4M

`--help` lists the options, `ryzen-mpi bench osu_bw` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("osu_bw")
