"""Bandwidth between two ranks both ways at once, as osu_bibw measures it.

    mpirun -np 2 python benchmarks/osu_bibw.py --backend raw,mpi -m 1K:4M

`--help` lists the options, `ryzen-mpi bench osu_bibw` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("osu_bibw")
