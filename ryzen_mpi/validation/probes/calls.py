"""Single operations of the communication benchmarks, checked and timed, with every call kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from ryzen_mpi.bench import catalog, pointtopoint
from ryzen_mpi.bench.catalog import WINDOW
from ryzen_mpi.bench.measure import Samples, measure
from ryzen_mpi.bench.memory import last_level_cache
from ryzen_mpi.bench.options import DATATYPES, Options
from ryzen_mpi.bench.prepared import Prepared
from ryzen_mpi.bench.run import agreed_buffers, prepare_side
from ryzen_mpi.bench.sides import Side, open_sides
from ryzen_mpi.bench.validate import wrong_elements
from ryzen_mpi.cluster.exchange import wait
from ryzen_mpi.cluster.world import World

LATE_S = 0.05
"""How late a rank comes to a barrier: long enough for those who did not wait to be heard."""
TRIED, BUDGET_S = 20, 15.0
"""Calls that tell how long one takes, and the time that all calls of an operation may take."""
LEFT = 77
"""Tag of the messages of those who left."""
Wrong = dict[str, tuple[int, int]]
"""By what was done: (elements that are wrong, elements looked at), of all ranks."""


def all_reduce(
    world: World, name: str, sizes: Sequence[int], datatypes: Sequence[str], small: int
) -> tuple[Wrong, Samples, dict[str, Any]]:
    """Sums over side `name` against sums known beforehand, at all sizes; the calls of `small` bytes. Collective.

    Also, JSON-able and by rank, the interface torch.distributed would take and this process' connections meanwhile.
    """
    wrong: Wrong = {}
    interfaces = _interfaces(world)  # before a group is made, which sets the variable by which one is chosen by hand
    with open_sides(world, (name,)) as sides:
        side: Any = sides[name]
        for datatype in datatypes:
            for size in sizes:
                what = f"{size} bytes of {DATATYPES[datatype].name}"
                wrong[what] = checked(world, side, "all_reduce", size, datatype)
        samples = timed(world, side, "all_reduce", small, "float")
        sockets = world.exchange.allgather({"by_address": connections()})
    return wrong, samples, {"interface": interfaces, "sockets": sockets}


@contextmanager
def _ready(world: World, side: Side, operation: str, size: int, datatype: str) -> Iterator[Prepared]:
    options = Options(("raw",), size, size, DATATYPES[datatype], validate=True)
    buffers = agreed_buffers(world, operation, size, options, last_level_cache()[0], False)
    prepared = prepare_side(world, side, operation, size, options, buffers)
    try:
        yield prepared
    finally:
        prepared.release()


def checked(world: World, side: Side, operation: str, size: int, datatype: str) -> tuple[int, int]:
    """(elements that are wrong, elements looked at) of all ranks. Collective.

    Of a barrier: departures, each rank being the last to come once.
    """
    with _ready(world, side, operation, size, datatype) as prepared:
        if operation == "barrier":
            return left_early(world, prepared.calls[0]), world.size * (world.size - 1)
        elements = sum(tensor.numel() for tensor in prepared.outputs)
        count = wrong_elements(world.comm, prepared, operation, DATATYPES[datatype])
        return count, sum(world.exchange.allgather(elements))


def left_early(world: World, barrier: Callable[[], object]) -> int:
    """How often a rank left the barrier before the last one came, each being the last once. Collective.

    No clocks are compared, which differ from node to node: who leaves tells the late rank, and what that one hears
    before it enters came from a rank that did not wait.
    """
    comm, early = world.comm, 0
    for late in range(comm.size):
        wait(comm.Ibarrier())
        if comm.rank != late:
            barrier()
            comm.Send(bytearray(1), late, LEFT)
            continue
        heard, end = 0, time.monotonic() + LATE_S
        while time.monotonic() < end:  # MPI moves messages along only while it is called
            if comm.Iprobe(tag=LEFT):
                comm.Recv(bytearray(1), tag=LEFT)
                heard += 1
            else:
                time.sleep(0.001)
        barrier()
        for _ in range(comm.size - 1 - heard):
            comm.Recv(bytearray(1), tag=LEFT)
        early += heard
    return sum(world.exchange.allgather(early))


def timed(world: World, side: Side, operation: str, size: int, datatype: str, budget_s: float = BUDGET_S) -> Samples:
    """As many calls as OSU takes, or as fit into `budget_s` and at least TRIED. Collective.

    Ranks that share cores wait for one another's time slices: there OSU's 1000 calls are minutes.
    """
    benchmark = next(item for item in catalog.BENCHMARKS.values() if item.operation == operation)
    iterations, warmup = benchmark.iterations(size, None, None)
    with _ready(world, side, operation, size, datatype) as prepared:
        prepared.clear()
        # ranks meet before each call, outside the time, as in OSU's collectives; a barrier meets by itself
        take = partial(measure, world.comm, {operation: prepared}, meet=operation != "barrier")
        began = time.monotonic()
        tried = take(TRIED, 2)[operation]
        slowest_s = max(world.exchange.allgather(time.monotonic() - began))
        fitting = int(min(iterations, TRIED * budget_s / slowest_s))
        return tried if fitting <= TRIED else take(fitting, min(warmup, fitting // 10))[operation]


def between(
    world: World, operation: str, pair: tuple[int, int] | None, size: int, iterations: int, warmup: int
) -> Samples:
    """Calls of `latency`, `bw` or `bibw` over MPI between ranks; every rank gives its own pair, or None. Collective.

    One call is a round trip, or a window of 64 messages.
    """
    datatype = DATATYPES["char"]
    with open_sides(world, ("raw",)) as sides:
        side: Any = sides["raw"]
        options = Options(("raw",), size, size, datatype)
        buffers = agreed_buffers(world, "message", size, options, last_level_cache()[0], False)
        nobody = (-1, -1)
        messages = side.messages(datatype)
        ready = pointtopoint.prepare(messages, operation, size, datatype, buffers, pair or nobody, world.rank)
        return measure(world.comm, {operation: ready}, iterations, warmup, meet=False)[operation]


def around(world: World, distance: int, size: int, iterations: int, warmup: int) -> Samples:
    """Calls of a window of 64 messages from every rank to the one `distance` further, all at once. Collective."""
    datatype = DATATYPES["char"]
    with open_sides(world, ("raw",)) as sides:
        side: Any = sides["raw"]
        options = Options(("raw",), size, size, datatype)
        buffers = agreed_buffers(world, "message", size, options, last_level_cache()[0], False)
        messages = side.messages(datatype)
        ready = pointtopoint.prepare_ring(messages, distance, size, datatype, buffers, world.rank, world.size)
        return measure(world.comm, {"ring": ready}, iterations, warmup)["ring"]


def gbit_s(samples: Samples, rank: int, size: int, ways: int = 1) -> list[float]:
    """10^9 bits a second of every window of 64 messages of `size` bytes, by the clock of `rank`. Local."""
    return [float(8 * size * WINDOW * ways / nanoseconds) for nanoseconds in samples.times_ns[rank]]


def of_rank(samples: Samples, rank: int) -> Samples:
    """What one rank timed. Local."""
    return replace(samples, times_ns=samples.times_ns[rank : rank + 1])


def connections() -> dict[str, int]:
    """How many TCP connections this process has from each of its own addresses. Local."""
    import psutil

    found = Counter(
        item.laddr.ip.removeprefix("::ffff:")
        for item in psutil.Process().net_connections("tcp")
        if item.status == "ESTABLISHED"
    )
    return dict(found)


def _interfaces(world: World) -> list[dict[str, str]]:
    from ryzen_mpi.comm.rendezvous import choose_interface
    from ryzen_mpi.config import Distributed

    return world.exchange.allgather(vars(choose_interface(world, Distributed())))
