"""The measuring loop: all sides take turns, round by round, in one launch; every call is timed on every rank."""

from __future__ import annotations

import ctypes
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ryzen_mpi.bench.disturbance import DISTURBED_SHARE, Others, is_disturbed, others_share, waited_share
from ryzen_mpi.bench.prepared import Prepared, vectors
from ryzen_mpi.cluster.exchange import MpiExchange, wait
from ryzen_mpi.cluster.kernel import read_threads

ROUNDS = 20
"""Turns each side gets: a ratio of two sides is taken within a turn, a few milliseconds apart."""


@dataclass(frozen=True)
class Samples:
    """What the loop saw of one side.

    Attributes:
        times_ns: [ranks, iterations], duration of every call on every rank.
        rounds: first iteration of every round, and the number of iterations.
        waited: [rounds], share of the round in which the rank that waited most had no core.
        waited_whole: the same over all rounds.
        others: share of the cores' time that other programs took while all sides were measured; NaN if not known.
    """

    times_ns: np.ndarray
    rounds: tuple[int, ...]
    waited: np.ndarray
    waited_whole: float
    others: float = float("nan")

    @property
    def disturbed(self) -> bool | None:
        """Whether the figures are to be marked. Local."""
        return is_disturbed(self.waited_whole, self.others)

    def slowest_ns(self) -> np.ndarray:
        """[iterations], duration on the rank that took longest: when all are done. Local."""
        return self.times_ns.max(axis=0)

    def round_medians_ns(self) -> np.ndarray:
        """[rounds], median of `slowest_ns` in every round. Local."""
        slowest, ends = self.slowest_ns(), zip(self.rounds, self.rounds[1:], strict=False)
        return np.array([np.median(slowest[begin:end]) for begin, end in ends])

    def quiet(self) -> np.ndarray:
        """[rounds], whether nothing else disturbed the round; where that is not known it counts as quiet. Local."""
        return ~(self.waited > DISTURBED_SHARE)


def round_bounds(iterations: int, rounds: int = ROUNDS) -> tuple[int, ...]:
    """First iteration of every round, and `iterations`; no round is empty. Local."""
    count = max(1, min(rounds, iterations))
    return tuple(iterations * i // count for i in range(count + 1))


def measure(
    comm: Any, sides: Mapping[str, Prepared], iterations: int, warmup: int, meet: bool = True
) -> dict[str, Samples]:
    """Times `iterations` calls of every side, each cycling through its calls. Collective; the same on all ranks.

    The sides take turns: a few calls of the first, of the second, ... and again, each round in another order. `meet`:
    ranks meet in a barrier before every call, outside the time, as in OSU's collectives. A round begins with a call
    that is not timed.
    """
    bounds = round_bounds(iterations)
    times = {name: np.zeros(iterations, dtype=np.int64) for name in sides}
    waited = {name: np.zeros((len(bounds) - 1, 2)) for name in sides}
    turns, others = {name: 0 for name in sides}, Others()
    for name, side in sides.items():
        for _ in range(warmup):
            side.calls[turns[name] % len(side.calls)]()
            turns[name] += 1
    for number, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        for name in _order(list(sides), number):
            before, began = read_threads(), time.perf_counter_ns()
            _timed(sides[name].calls, turns[name], times[name][begin:end], comm, meet)
            elapsed = time.perf_counter_ns() - began
            waited[name][number] = waited_share(before, read_threads(), elapsed) * elapsed, elapsed
            turns[name] += end - begin + 1
    taken = _taken_by_others(comm, others)
    return {name: _gather(comm, times[name], bounds, waited[name], taken) for name in sides}


def _taken_by_others(comm: Any, others: Others) -> float:
    """`others_share` of the node where it is largest."""
    reports = MpiExchange(comm).allgather([socket.gethostname(), others.report()])
    nodes = {host: [report for other, report in reports if other == host] for host, _ in reports}
    return float(np.max([others_share(node) for node in nodes.values()]))


def _order(names: list[str], number: int) -> list[str]:
    """Another side goes first each round: nobody always follows the same one."""
    first = number % len(names)
    return names[first:] + names[:first]


def _timed(calls: Sequence[Callable[[], Any]], turn: int, times: np.ndarray, comm: Any, meet: bool) -> None:
    """Fills `times` with the nanoseconds of each call. Nothing but the call stands between the clock's readings.

    Around a round ranks wait without spinning: those that are no part of a pair must not take the cores it needs, and
    who comes a little late is waited for in the call that is not timed.
    """
    clock, durations, number, barrier = time.perf_counter_ns, [], len(calls), comm.Barrier
    wait(comm.Ibarrier())
    calls[turn % number]()
    for i in range(turn + 1, turn + 1 + len(times)):
        call = calls[i % number]
        if meet:
            barrier()
        began = clock()
        call()
        ended = clock()
        durations.append(ended - began)
    wait(comm.Ibarrier())
    times[:] = durations


def _gather(comm: Any, times: np.ndarray, bounds: tuple[int, ...], waited: np.ndarray, others: float) -> Samples:
    everyone = np.zeros((comm.size, len(times)), dtype=np.int64)
    comm.Allgather(times, everyone)
    parts = np.zeros((comm.size, *waited.shape))
    comm.Allgather(np.ascontiguousarray(waited), parts)
    whole = parts[:, :, 0].sum(axis=1) / parts[:, :, 1].sum(axis=1)
    return Samples(everyone, bounds, (parts[:, :, 0] / parts[:, :, 1]).max(axis=0), float(whole.max()), others)


def prepare_memcpy(size: int, buffers: int) -> Prepared:
    """A memcpy of `size` bytes by this rank, between `buffers` pairs of memory. Local.

    Measured beside the others it says what this machine's memory can do: all ranks copy at once.
    """
    import torch

    sources, targets = vectors(size, torch.uint8, buffers), vectors(size, torch.uint8, buffers)
    pairs = zip(targets, sources, strict=True)
    calls = [partial(ctypes.memmove, target.data_ptr(), source.data_ptr(), size) for target, source in pairs]
    return Prepared(calls, sources, targets)
