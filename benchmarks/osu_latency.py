"""Latency between two ranks: half a round trip of a message, as osu_latency measures it.

    mpirun -np 2 python benchmarks/osu_latency.py --backend all -m 1:4M -c

`--help` lists the options, `ryzen-mpi bench osu_latency` is the same.
"""

from ryzen_mpi.commands.bench import script

if __name__ == "__main__":
    script("osu_latency")
