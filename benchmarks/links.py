"""What a second TCP connection between two ranks brings: the all-reduce of a gradient between nodes, 1 against 2.

    python benchmarks/links.py [--mbit 50 200 1000] [--ranks 2 3 4] [--rounds 5] [--save]    # needs tests/lab/README.md

Over one connection Open MPI's answer to the announcement of a large message waits behind the data that travel the
other way. The number of connections is read when MPI starts, so every measurement is a launch of its own, and the two
sides alternate. One rank a host of the lab; the network of the first is limited both ways. The ratio is that of the
medians of neighbouring launches, of which the median over the rounds is given with its 95 % interval. Run it on an
idle machine only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import common
import limited

REPO = Path(__file__).parents[1]
LIMIT_S = 3600.0
LINKS = (1, 2)
PROGRAM = """\
for round in $(seq {rounds}); do
    for ranks in {ranks}; do
        for links in {links}; do
            {repo}/env/run mpirun -np $ranks --map-by ppr:1:node -x OMPI_MCA_btl_tcp_links=$links \\
                python {repo}/benchmarks/links.py --inside {result}.part --mib {mib} --calls {calls} || exit 1
        done
    done
done
mv {result}.part {result}
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=int, nargs="+", default=[50, 200, 1000], help="bandwidths of the first host")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4], choices=[2, 3, 4], help="one a host")
    parser.add_argument("--rounds", type=int, default=5, help="launches of each side")
    parser.add_argument("--calls", type=int, default=6, help="timed all-reduces of a launch")
    parser.add_argument("--mib", type=float, default=6.0, help="of a gradient")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("--inside", metavar="FILE", help=argparse.SUPPRESS)  # the job's part, on every rank
    return parser.parse_args()


def inside(options: argparse.Namespace) -> None:
    """Times the all-reduce between nodes as training has it; rank 0 appends a line. Collective."""
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.cluster.world import discover
    from ryzen_mpi.settings import load_settings

    world = discover()
    bind_ranks(world, load_settings("default", ["hardware.bind=none", "hardware.num_threads=1"]))
    import torch
    from training import slowest

    from ryzen_mpi.comm.across import Travelling, exchange
    from ryzen_mpi.comm.dtypes import reduction
    from ryzen_mpi.comm.waiting import Patience

    torch.set_num_threads(1)
    gradient, patience = torch.ones(int(options.mib * 2**20) // 4), Patience(120.0)
    how = reduction(gradient.dtype, "avg", world.size)
    seconds = []
    for _ in range(1 + options.calls):  # the first connects
        world.exchange.allgather(None)
        began = time.perf_counter()
        Travelling(exchange(gradient, world.comm, how), patience).finish()
        seconds.append(time.perf_counter() - began)
    assert bool((gradient == 1).all())
    timed = slowest({"s": seconds[1:]}, world)
    if world.is_leader:
        row = {"ranks": world.size, "links": int(os.environ["OMPI_MCA_btl_tcp_links"]), **timed}
        with open(options.inside, "a") as file:
            file.write(json.dumps(row) + "\n")
    world.exchange.close()


def in_lab(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every bandwidth and number of ranks. SystemExit with what the job printed where it fails."""
    given = {name: getattr(options, name) for name in ("rounds", "calls", "mib", "ranks")}
    rows = []
    for mbit, launches in limited.lines_by_bandwidth("links", options.mbit, PROGRAM, LIMIT_S, links=LINKS, **given):
        for count in options.ranks:
            rows.append(compared([row for row in launches if row["ranks"] == count], mbit, options))
            show(rows[-1])
    return rows


def compared(launches: list[dict[str, Any]], mbit: int, options: argparse.Namespace) -> dict[str, Any]:
    """The seconds of both sides, the ratio of one connection over two, and the least that the link can take. Pure."""
    from statistics import median

    one, two = ([s for row in launches if row["links"] == links for s in row["s"]] for links in LINKS)
    ranks = launches[0]["ranks"]
    least = 2 * (ranks - 1) / ranks * options.mib * 2**20 * 8 / (mbit * 1e6)
    return {
        "mbit": mbit,
        "ranks": ranks,
        "one_s": median(one),
        "two_s": median(two),
        "least_s": least,
        "one_over_two": common.ratio(one, two, options.rounds),
    }


def show(row: dict[str, Any]) -> None:
    found = row["one_over_two"]
    print(
        f"{row['mbit']:5} Mbit/s, {row['ranks']} ranks: {row['one_s']:.3f} s over one connection, {row['two_s']:.3f} s "
        f"over two, the link's least {row['least_s']:.3f} s; {found['ratio']:.2f} ({found['low']:.2f} to "
        f"{found['high']:.2f}) times",
        flush=True,
    )


def main() -> None:
    options = arguments()
    if options.inside:
        inside(options)
        return
    rows = in_lab(options)
    if options.save:
        print(f"kept in {common.save('links', {'mib': options.mib, 'rows': rows}).relative_to(REPO)}")


if __name__ == "__main__":
    main()
