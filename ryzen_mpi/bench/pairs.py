"""Latency and bandwidth between all pairs of ranks: a slow link or a badly placed rank stands out.

The bandwidth is mpiGraph's (https://github.com/LLNL/mpiGraph): for every distance d all ranks send 64 messages to the
rank d further at once, so that every link is measured under load. The latency is of each pair alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ryzen_mpi.bench import pointtopoint
from ryzen_mpi.bench.catalog import WINDOW, Benchmark
from ryzen_mpi.bench.measure import measure
from ryzen_mpi.bench.memory import last_level_cache
from ryzen_mpi.bench.options import Options
from ryzen_mpi.bench.prepared import Prepared, Unavailable
from ryzen_mpi.bench.run import agreed_buffers, check_ranks
from ryzen_mpi.bench.sides import Side, open_sides
from ryzen_mpi.bench.validate import wrong_elements
from ryzen_mpi.cluster.world import World
from ryzen_mpi.errors import UserError

STEP_S, TRIED, LEAST = 2.0, 4, 6
"""Seconds that the calls of a pair or of a distance may take; calls that tell how long one takes; the fewest timed."""


@dataclass
class Matrix:
    """The figures of one backend; [i, j] is from rank i to rank j, and NaN on the diagonal.

    Attributes:
        latency_us: half a round trip of the smallest message, median.
        send_mib_s, receive_mib_s: [i, j] what rank i saw of sending to, and of receiving from, rank j (2^20 bytes/s).
        disturbed: measurements not to be trusted, as (what, waited_share, others_share) of a row.
        valid: whether results were right (-c), None where they were not checked.
    """

    latency_us: np.ndarray
    send_mib_s: np.ndarray
    receive_mib_s: np.ndarray
    disturbed: list[tuple[str, float, float]] = field(default_factory=list)
    valid: bool | None = None


@dataclass
class Pairs:
    """What `all_pairs` found: matrices by backend, reasons of those without, and the hosts of the ranks."""

    benchmark: Benchmark
    options: Options
    hosts: list[str]
    matrices: dict[str, Matrix] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def run_pairs(world: World, benchmark: Benchmark, options: Options, tell: Callable[[str], None]) -> Pairs:
    """The matrices of all backends. Collective; the same on all ranks. `tell(what)` is called before each step.

    Raises UserError where there are too few ranks or no backend has point-to-point.
    """
    check_ranks(world, benchmark)
    result = Pairs(benchmark, options, world.exchange.allgather(world.hostname))
    cache = last_level_cache()[0]
    with open_sides(world, options.backends) as sides:
        usable: dict[str, Side] = {}
        for name, side in sides.items():
            try:
                if isinstance(side, Unavailable):
                    raise side
                side.messages(options.datatype)
                for size in (options.smallest, options.largest):
                    agreed_buffers(world, "message", size, options, cache, False)
            except Unavailable as error:
                result.absent[name] = str(error)
            else:
                usable[name] = side
                empty = np.full((world.size, world.size), np.nan)
                valid = True if options.validate else None
                result.matrices[name] = Matrix(empty.copy(), empty.copy(), empty.copy(), valid=valid)
        if not usable:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in result.absent.items())
            raise UserError(f"{benchmark.name}: nothing could be measured", reasons)
        for first in range(world.size):
            for second in range(first + 1, world.size):
                tell(f"latency {first} to {second}")
                _latency(world, usable, result, (first, second), cache)
        for distance in range(1, world.size):
            tell(f"bandwidth at distance {distance}")
            _bandwidth(world, usable, result, distance, cache)
    return result


def _latency(world: World, sides: dict[str, Side], result: Pairs, pair: tuple[int, int], cache: int) -> None:
    options, size = result.options, result.options.smallest
    count, datatype = size // options.datatype.size, options.datatype
    buffers = agreed_buffers(world, "message", size, options, cache, False)
    ready = {
        name: pointtopoint.prepare(side.messages(datatype), "latency", count, datatype, buffers, pair, world.rank)
        for name, side in sides.items()
    }
    peer = pair[1] if world.rank == pair[0] else pair[0]
    few = {name: _first_sets(prepared) for name, prepared in ready.items()}
    _check(world, result, few, peer)
    iterations = _fitting(world, few, result, size)
    # the ranks of the pair must start together, the others must not spin into their time: they meet once a round
    for name, samples in measure(world.comm, ready, *iterations, meet=False).items():
        matrix = result.matrices[name]
        for rank, other in (pair, pair[::-1]):
            matrix.latency_us[rank, other] = np.median(samples.times_ns[rank]) / 2e3
        if samples.disturbed:
            matrix.disturbed.append((f"latency {pair[0]} to {pair[1]}", samples.waited_whole, samples.others))


def _first_sets(prepared: Prepared) -> Prepared:
    """The same calls on a few of its sets of memory."""
    calls, inputs, outputs = (part[:TRIED] for part in (prepared.calls, prepared.inputs, prepared.outputs))
    return replace(prepared, calls=calls, inputs=inputs, outputs=outputs)


def _fitting(world: World, sides: dict[str, Prepared], result: Pairs, size: int) -> tuple[int, int]:
    """(calls, calls to warm up) at `size` bytes: as many as were asked for, or OSU's that fit into STEP_S. Collective.

    Of two ranks that share a core with others, a round trip takes the others' time slices.
    """
    iterations, warmup = result.benchmark.iterations(size, result.options.iterations, result.options.warmup)
    if result.options.iterations is not None:
        return iterations, warmup
    calls = [call for prepared in sides.values() for call in prepared.calls]
    began = time.monotonic()
    for call in calls:
        call()
    call_s = max(world.exchange.allgather(time.monotonic() - began)) / len(calls)
    iterations = max(LEAST, min(iterations, int(STEP_S / call_s)))
    return iterations, min(warmup, iterations // 10)


def _bandwidth(world: World, sides: dict[str, Side], result: Pairs, distance: int, cache: int) -> None:
    options, size, ranks = result.options, result.options.largest, world.size
    count, datatype = size // options.datatype.size, options.datatype
    buffers = agreed_buffers(world, "message", size, options, cache, False)
    ready = {
        name: pointtopoint.prepare_ring(side.messages(datatype), distance, count, datatype, buffers, world.rank, ranks)
        for name, side in sides.items()
    }
    _check(world, result, ready, (world.rank - distance) % ranks)
    for name, samples in measure(world.comm, ready, *_fitting(world, ready, result, size)).items():
        matrix = result.matrices[name]
        for rank in range(ranks):
            rate = size * WINDOW / 2**20 / (np.median(samples.times_ns[rank]) / 1e9)
            matrix.send_mib_s[rank, (rank + distance) % ranks] = rate
            matrix.receive_mib_s[rank, (rank - distance) % ranks] = rate
        if samples.disturbed:
            matrix.disturbed.append((f"bandwidth at distance {distance}", samples.waited_whole, samples.others))


def _check(world: World, result: Pairs, ready: dict[str, Prepared], peer: int) -> None:
    if not result.options.validate:
        return
    for name, prepared in ready.items():
        if wrong_elements(world.comm, prepared, "message", result.options.datatype, peer):
            result.matrices[name].valid = False
