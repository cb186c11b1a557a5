"""A plain all_reduce between nodes that have a rank each: in parts, as backend mpi does it, against MPI's own tree.

    python benchmarks/between_nodes.py [--mbit 200 1000] [--ranks 2 3 4] [--kib 32 128 512 4096] [--save]

Needs the lab (tests/lab/README.md): one rank a host, the network of the first limited both ways. Both sides alternate
in one launch; a call's time is that of its slowest rank. The ratio is MPI's time over that in parts, median over rounds
with its 95 % interval. Run it on an idle machine only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import common
import limited

REPO = Path(__file__).parents[1]
LIMIT_S = 3600.0
PROGRAM = """\
for ranks in {ranks}; do
    {repo}/env/run mpirun -np $ranks --map-by ppr:1:node python {repo}/benchmarks/between_nodes.py \\
        --inside {result}.part --kib {kib} --rounds {rounds} --calls {calls} || exit 1
done
mv {result}.part {result}
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=int, nargs="+", default=[200, 1000], help="bandwidths of the first host")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4], choices=[2, 3, 4], help="one a host")
    parser.add_argument("--kib", type=int, nargs="+", default=[32, 128, 512, 4096], help="sizes of the tensor")
    parser.add_argument("--rounds", type=int, default=9, help="alternations of both sides")
    parser.add_argument("--calls", type=int, default=4, help="calls of a side in a round")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("--inside", metavar="FILE", help=argparse.SUPPRESS)  # the job's part, on every rank
    return parser.parse_args()


def inside(options: argparse.Namespace) -> None:
    """Times both sides at every size; rank 0 appends a line a size. Collective."""
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.cluster.world import discover
    from ryzen_mpi.settings import load_settings

    world, settings = discover(), load_settings("default", ["hardware.bind=none", "distributed.timeout_s=60"])
    bind_ranks(world, settings)
    import torch
    import torch.distributed as dist
    from training import alternate, slowest

    from ryzen_mpi.comm import collectives
    from ryzen_mpi.comm.rendezvous import process_group

    torch.set_num_threads(1)

    def reduced(tree_bytes: int, data: torch.Tensor) -> None:
        collectives.TREE_BYTES = tree_bytes
        dist.all_reduce(data, op=dist.ReduceOp.AVG)

    with process_group(world, settings.distributed):
        for kib in options.kib:
            data = torch.ones(kib * 256)
            sides = {"tree": lambda data=data: reduced(1 << 40, data), "parts": lambda data=data: reduced(0, data)}
            timed = slowest(alternate(sides, options.rounds, options.calls, dist.barrier), world)
            assert bool((data == 1).all())
            if world.is_leader:
                with open(options.inside, "a") as file:
                    file.write(json.dumps({"ranks": world.size, "kib": kib, **timed}) + "\n")
    world.exchange.close()


def in_lab(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every bandwidth, number of ranks and size. SystemExit with what the job printed where it fails."""
    given = {name: getattr(options, name) for name in ("rounds", "calls", "ranks", "kib")}
    rows = []
    for mbit, sizes in limited.lines_by_bandwidth("between", options.mbit, PROGRAM, LIMIT_S, **given):
        for timed in sizes:
            rows.append(compared(timed, mbit, options.rounds))
            show(rows[-1])
    return rows


def compared(timed: dict[str, Any], mbit: int, rounds: int) -> dict[str, Any]:
    """The seconds of both sides and MPI's over ours. Pure."""
    tree, parts = timed["tree"], timed["parts"]
    return {
        **{"mbit": mbit, "ranks": timed["ranks"], "kib": timed["kib"]},
        **{"tree_s": median(tree), "parts_s": median(parts), "tree_over_parts": common.ratio(tree, parts, rounds)},
    }


def show(row: dict[str, Any]) -> None:
    found = row["tree_over_parts"]
    print(
        f"{row['mbit']:5} Mbit/s, {row['ranks']} ranks, {row['kib']:5} KiB: {1e3 * row['tree_s']:8.2f} ms by MPI, "
        f"{1e3 * row['parts_s']:8.2f} in parts; {found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f}) times",
        flush=True,
    )


def main() -> None:
    options = arguments()
    if options.inside:
        inside(options)
        return
    rows = in_lab(options)
    if options.save:
        print(f"kept in {common.save('between_nodes', {'rows': rows}).relative_to(REPO)}")


if __name__ == "__main__":
    main()
