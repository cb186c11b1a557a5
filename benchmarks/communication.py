"""The figures of communication: arenas and the `mpi` backend against Gloo, MPI and memcpy, with a verdict each.

    python benchmarks/communication.py --save              # all sizes, 4 bytes to 64 MiB
    python benchmarks/communication.py --largest 1M        # a quicker look

Starts itself under mpirun. All sides of a size take turns in one launch; a figure is the median over the turns in which
nothing disturbed either side, with its 95 % interval. A size that is disturbed is measured again, `--tries` times at
most; one that stays so has no figure. Runs on an idle machine only.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import common

MIB = 1 << 20
SIZES = (4, 64, 1024, 8192, 65536, 262144, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
SMALL, LARGE = 8192, 4 * MIB


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--largest", default="64M", help="largest message")
    parser.add_argument("--iterations", type=int, help="calls of a side at a size (default: by size)")
    parser.add_argument("--tries", type=int, default=5, help="measurements of a size until one is undisturbed")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    return parser.parse_args()


def prepare(world, sides: dict[str, Any], size: int, cache: int) -> dict[str, Any]:
    """All that is measured at `size` bytes of float32, ready. Collective."""
    from ryzen_mpi.bench.measure import prepare_memcpy
    from ryzen_mpi.bench.memory import rotation
    from ryzen_mpi.bench.options import DATATYPES, Options

    float32, bfloat16 = DATATYPES["float"], DATATYPES["bfloat16"]
    count, buffers = size // float32.size, max(1, rotation(size, cache, Options.memory_limit // 4))
    arena = sides["arena"]
    ready = {name: side.prepare("all_reduce", count, float32, buffers) for name, side in sides.items()}
    ready["arena bfloat16"] = arena.prepare("all_reduce", count, bfloat16, buffers)
    ready["arena reduce_scatter"] = arena.prepare("reduce_scatter", count, float32, buffers)
    ready["arena reading"] = arena.prepare_reading(count, float32, buffers)
    ready["memcpy"] = prepare_memcpy(size, buffers)
    return ready


def prepare_tight(world, raw, operation: str, size: int) -> dict[str, Any]:
    """Our row beside the same MPI call in a loop of nothing else, through the same memory. Collective.

    The second side's calls are whole loops over the first's own memory: their time is that of `loop` calls.
    """
    from mpi4py import MPI

    from ryzen_mpi.bench import pointtopoint
    from ryzen_mpi.bench.options import DATATYPES
    from ryzen_mpi.bench.prepared import Prepared

    datatype, buffers = DATATYPES["float"], 32
    count, comm = size // datatype.size, raw.comm
    if operation == "latency":
        ours = pointtopoint.prepare(raw.messages(datatype), operation, count, datatype, buffers, (0, 1), world.rank)
    else:
        ours = raw.prepare(operation, count, datatype, buffers)
    memory = [*ours.inputs, *(ours.outputs if operation == "latency" else [])]
    specs = [[tensor.numpy(), MPI.FLOAT] for tensor in ours.inputs]
    rooms = [[tensor.numpy(), MPI.FLOAT] for tensor in ours.outputs]
    peer = 1 - world.rank

    def all_reduces() -> None:
        call, in_place = comm.Allreduce, MPI.IN_PLACE
        for spec in specs:
            call(in_place, spec)

    def round_trips() -> None:
        send, receive = comm.Send, comm.Recv
        if world.rank == 0:
            for spec, room in zip(specs, rooms, strict=True):
                send(spec, peer)
                receive(room, peer)
        else:
            for spec, room in zip(specs, rooms, strict=True):
                receive(room, peer)
                send(spec, peer)

    tight = Prepared([all_reduces if operation == "all_reduce" else round_trips], memory)
    return {"ours": ours, "tight": tight, "loop": len(specs)}


def measured(world, ready: dict[str, Any], size: int, options, meet: bool = True) -> dict[str, Any]:
    """Samples of all sides, measured until undisturbed or `--tries` times. Collective."""
    from ryzen_mpi.bench.compare import FEWEST_ROUNDS
    from ryzen_mpi.bench.disturbance import OTHERS_SHARE
    from ryzen_mpi.bench.measure import measure

    iterations = options.iterations or (400 if size <= SMALL else 200 if size < LARGE else 40)
    for prepared in ready.values():
        prepared.clear()
    best, most = {}, -1
    for _ in range(options.tries):
        samples = measure(world.comm, ready, iterations, max(2, iterations // 20), meet)
        quiet = min(int(item.quiet().sum()) for item in samples.values())
        if next(iter(samples.values())).others > OTHERS_SHARE:
            quiet = 0
        if quiet > most:  # the same on all ranks, as the samples are
            best, most = samples, quiet
        if most >= 2 * FEWEST_ROUNDS:
            break
    for prepared in ready.values():
        prepared.release()
    return best


def table(samples: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the table from the samples of all sizes. Local."""
    from ryzen_mpi.bench.compare import Target, compare

    def line(target: Target, left: str, right: str, low: int, high: int, how: Any = "ratio") -> dict[str, Any]:
        found = {
            size: compare(sides[left], sides[right], how) for size, sides in samples.items() if low <= size <= high
        }
        return target.judged(found)

    at_least, at_most = partial(Target, least=True), partial(Target, least=False)
    arena, mpi, raw = "arena all-reduce", "`mpi` backend on ordinary tensors", "raw mpi4py in place"
    everything = (65536, 64 * MIB)
    lines = [
        line(at_least(f"{arena}, 64 KiB - 1 MiB", "Gloo", 10.0), "gloo", "arena", 65536, MIB),
        line(at_least(f"{arena}, 4 - 64 MiB", "Gloo", 12.0), "gloo", "arena", LARGE, 64 * MIB),
        line(at_least(f"{arena}, 4 - 64 MiB", "Open MPI in place", 2.5), "raw", "arena", LARGE, 64 * MIB),
        line(at_most(f"{arena}, 16 MiB", "a memcpy by each rank", 0.6), "arena", "memcpy", 16 * MIB, 16 * MIB),
        line(at_least(f"{mpi}, 4 B - 64 KiB", "Gloo", 15.0), "gloo", "mpi", 4, 65536),
        line(at_least(f"{mpi}, 1 - 16 MiB", "Gloo", 4.0), "gloo", "mpi", MIB, 16 * MIB),
        line(at_most("`mpi` backend, from 64 KiB up", raw, 1.15), "mpi", "raw", *everything),
        line(
            at_most("`mpi` backend, small messages", f"{raw}, more by", 12.0, unit="us"),
            *("mpi", "raw", 4, SMALL, "excess_us"),
        ),
        line(at_most("arena reduce-scatter", arena, 0.6), "arena reduce_scatter", "arena", *everything),
        line(at_most("bfloat16 arena all-reduce", "float32, same count", 0.6), "arena bfloat16", "arena", *everything),
    ]
    floor = line(at_most("only reading what a reduce-scatter reads", arena, 0.6), "arena reading", "arena", *everything)
    return [*lines, floor | {"verdict": "for comparison: the floor under the reduce-scatter"}]


def our_rows(world, raw, options, largest: int) -> list[dict[str, Any]]:
    """Lines that hold our own loop against MPI in the tightest one. Collective."""
    from dataclasses import replace

    from ryzen_mpi.bench.compare import Target, allowance

    lines = []
    for operation, name in (("all_reduce", "osu_allreduce"), ("latency", "osu_latency")):
        found = {}
        for size in (size for size in SIZES if size <= min(largest, MIB)):
            ready = prepare_tight(world, raw, operation, size)
            loop = ready.pop("loop")
            samples = measured(world, ready, size, options, meet=operation == "all_reduce")
            ours, tight = samples["ours"], samples["tight"]
            tight = replace(tight, times_ns=tight.times_ns / loop)
            if operation == "latency":  # half a round trip, seen from rank 0, on both sides
                ours, tight = (replace(item, times_ns=item.times_ns[:1] / 2) for item in (ours, tight))
            found[size] = allowance(ours, tight, 1.05, 1.5)
        target = Target(f"our {name} row, raw", "its MPI call in the tightest loop x 1.05 + 1.5 us", 1.0, least=False)
        lines.append(target.judged(found))
    return lines


def run(world, options) -> int:
    """Measures, shows and keeps the table; returns the exit code. Collective."""
    from ryzen_mpi.bench.memory import last_level_cache
    from ryzen_mpi.bench.options import parse_size
    from ryzen_mpi.bench.sides import open_sides
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.settings import load_settings

    largest = parse_size(options.largest)
    place = bind_ranks(world, load_settings())
    import torch

    torch.set_num_threads(1)
    samples = {}
    with open_sides(world, ("raw", "mpi", "gloo", "arena")) as sides:
        for size in (size for size in SIZES if size <= largest):
            ready = prepare(world, sides, size, last_level_cache()[0])
            samples[size] = measured(world, ready, size, options)
            if world.is_leader:
                print(f"measured {size} bytes", flush=True)
        lines = table(samples) + our_rows(world, sides["raw"], options, largest)
    if world.is_leader:
        for warning in place.warnings:
            print(f"warning: {warning}")
        show(lines, samples)
        if options.save:
            result = {"ranks": world.size, "lines": lines, "medians_us": medians(samples)}
            print(f"kept in {common.save('communication', result).relative_to(common.RESULTS.parent.parent)}")
    return 0


def medians(samples: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Median of the slowest rank in us, and whether it was disturbed, by size and side. Local."""
    import numpy as np

    return {
        str(size): {
            name: {"p50_us": float(np.median(item.slowest_ns())) / 1e3, "disturbed": item.disturbed}
            for name, item in sides.items()
        }
        for size, sides in samples.items()
    }


def show(lines: list[dict[str, Any]], samples: dict[int, dict[str, Any]]) -> None:
    for line in lines:
        sign = "at least" if line["least"] else "at most"
        print(f"\n{line['what']} / {line['against']}: {sign} {line['bound']:g} {line['unit']}: {line['verdict']}")
        for item in line["figures"]:
            quiet = f"{item['quiet_rounds']} of {item['rounds']} turns undisturbed"
            if item["value"] is None:
                print(f"  {item['bytes']:>10} bytes  no figure ({quiet})")
            else:
                interval = f"{item['low']:.3f} to {item['high']:.3f}"
                print(f"  {item['bytes']:>10} bytes  {item['value']:9.3f}  ({interval}; {quiet})")
    print("\nmedians in us (* disturbed)")
    for size, sides in medians(samples).items():
        cells = (f"{name} {cell['p50_us']:.1f}{'*' if cell['disturbed'] else ''}" for name, cell in sides.items())
        print(f"  {size:>10} bytes  {'  '.join(cells)}")


def main() -> None:
    import sys

    options = arguments()
    common.relaunch(options.ranks)
    from ryzen_mpi.cluster.job import run_job

    sys.exit(run_job(lambda world: run(world, options)))


if __name__ == "__main__":
    main()
