"""Health checks between steps: does a message go round all ranks, how long does a small all-reduce take, how fast is a
large one. They may cost a share of the training time and no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist

from ryzen_mpi.cluster.world import World

FIRST_S = 0.05
"""What a check is taken to cost before one was made."""
SMALL, LARGE, TIMES = 1, 1 << 18, 9
"""Elements of float64 and of float32 (1 MiB) that are added up, and how often."""


@dataclass(frozen=True)
class Checked:
    """What a check found: whether the ring was whole, seconds of a small all-reduce, bytes a second of a large one; and
    what it cost on the slowest rank."""

    ring: bool
    latency_s: float
    bandwidth: float
    cost_s: float

    def figures(self) -> dict[str, float]:
        """By signal."""
        return {
            "check_ring": float(self.ring),
            "check_latency_s": self.latency_s,
            "check_bandwidth": self.bandwidth,
        }


class HealthChecks:
    """Made alike on all ranks.

    Args:
        share: of the time that training takes, which checks may take; 0: never.

    Attributes:
        newest: the last check, or None.
        spent_s: by all of them, on the slowest rank.
    """

    def __init__(self, world: World, share: float) -> None:
        self.world, self.share = world, share if world.size > 1 else 0.0
        self.newest: Checked | None = None
        self.spent_s, self._cost_s = 0.0, FIRST_S

    def due(self, trained_s: float) -> bool:
        """Whether a check fits into the budget after `trained_s` seconds of steps; the same on all ranks. Local."""
        return self.spent_s + self._cost_s <= self.share * trained_s

    def run(self) -> Checked:
        """Checks. Collective."""
        began = time.perf_counter()
        whole = ring(self.world)
        latency_s = _time(torch.zeros(SMALL, dtype=torch.float64))
        tensor = torch.zeros(LARGE)
        bandwidth = tensor.nbytes / _time(tensor)
        told = self.world.exchange.allgather([whole, latency_s, bandwidth, time.perf_counter() - began])
        wholes, latencies, bandwidths, costs = zip(*told, strict=True)
        self.newest = Checked(all(wholes), max(latencies), min(bandwidths), max(costs))
        self._cost_s = self.newest.cost_s
        self.spent_s += self.newest.cost_s
        return self.newest


def ring(world: World, send: Callable[[int], int] = lambda token: token) -> bool:
    """Whether what every rank sends to the next one comes as it was sent. Collective.

    `send`: what becomes of a rank's word on its way, for tests.
    """
    following, before = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    given, taken = torch.tensor([send(_token(world.rank))]), torch.zeros(1, dtype=torch.int64)
    works = [dist.isend(given, following), dist.irecv(taken, before)]
    for work in works:
        work.wait()
    return int(taken) == _token(before)


def _token(rank: int) -> int:
    return 0x5DEECE66D * (rank + 1) % 2**48  # every bit pattern of its own


def _time(tensor: torch.Tensor) -> float:
    """Median seconds of an all-reduce of `tensor`. Collective."""
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        dist.all_reduce(tensor)
        seconds.append(time.perf_counter() - began)
    return median(seconds)
