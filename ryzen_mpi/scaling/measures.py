"""What a launch of a calibration measures: sides that take turns, round by round, on every rank."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ryzen_mpi.scaling.request import Request, shares_around

if TYPE_CHECKING:
    from ryzen_mpi.cluster.binding import Binding
    from ryzen_mpi.cluster.world import World
    from ryzen_mpi.config import Settings
    from ryzen_mpi.training.step import TrainingStep

WARMUP_ROUNDS = 1
SMALL_BYTES, LARGE_BYTES = 64 << 10, 64 << 20
CALLS, LEAST_CALLS, WARMUP_CALLS = 30, 5, 3
"""Timed calls of a collective at a size; as few as LEAST_CALLS where they would take more than PATIENCE_S."""
PATIENCE_S = 5.0


class Probe:
    """One launch's measurements. All ranks construct it alike; its methods are collective."""

    def __init__(self, world: World, settings: Settings, request: Request, place: Binding) -> None:
        import torch.distributed as dist

        from ryzen_mpi.data.choose import open_source
        from ryzen_mpi.training.step import TrainingStep

        self.world, self.settings, self.request, self.place = world, settings, request, place
        self.shares = request.shares or shares_around(settings.training.batch_size)
        source = open_source(settings, Path())
        groups = [dist.new_group([rank]) for rank in range(world.size)]
        self.solo, self.updates = None, []
        if "compute" in request.parts:
            self.solo = TrainingStep(settings, source, 0, 1, self.shares[0], group=groups[world.rank])
            self._watch_updates(self.solo)
        self.whole = TrainingStep(settings, source, world.rank, world.size, world.size)

    def measure(self) -> dict[str, Any]:
        """What was asked for, as JSON values; the same on all ranks."""
        parts = self.request.parts
        cells = self._turns(self._sides())
        if "shared" in parts and self.world.local_size > 1:
            cells |= self._on_shared_cores()
        found: dict[str, Any] = {"cells": cells, "update_s": self.updates}
        if "messages" in parts and self.world.size > 1:
            found["collective"] = self._collective()
        if "compression" in parts and self.world.size > 1:
            found["compression"] = self._compression()
        if "checkpoint" in parts:
            found["checkpoint"] = self._checkpoint()
        return found

    def _watch_updates(self, step: TrainingStep) -> None:
        """Keeps the seconds of every optimiser update of `step`."""
        update = step.strategy.update

        def watched(*words: Any) -> None:
            began = time.perf_counter()
            update(*words)
            self.updates.append(time.perf_counter() - began)

        step.strategy.update = watched

    def _sides(self) -> dict[str, Callable[[], object]]:
        """What takes turns: every rank for itself, alone or beside the others, and all together, by samples a rank."""
        sides: dict[str, Callable[[], object]] = {}
        name = "alone" if self.world.size == 1 else "beside"
        for share in self.shares:
            if self.solo is not None:
                sides[f"{name}:{share}"] = _steps_of(self.solo, share)
            if "together" in self.request.parts and (self.world.size > 1 or self.solo is None):
                sides[f"together:{share}"] = _steps_of(self.whole, share * self.world.size)
        return sides

    def _on_shared_cores(self) -> dict[str, Any]:
        """The largest micro-batch with all ranks of the node on the cores of its first."""
        from ryzen_mpi.cluster import binding

        everyone = self.world.exchange.allgather([self.world.node, self.world.local_rank, list(self.place.cpus)])
        first = next(cpus for node, rank, cpus in everyone if (node, rank) == (self.world.node, 0))
        share, size = self.settings.training.batch_size, self.world.size
        sides = {f"shared together:{share}": _steps_of(self.whole, share * size)}
        if self.solo is not None:
            sides[f"shared beside:{share}"] = _steps_of(self.solo, share)
        binding.apply(replace(self.place, cpus=tuple(first)))
        try:
            return self._turns(sides)
        finally:
            binding.apply(self.place)

    def _turns(self, sides: dict[str, Callable[[], object]]) -> dict[str, Any]:
        """By side: [ranks][rounds][steps] seconds, and [rounds] seconds a step of a turn's slowest rank."""
        from ryzen_mpi.bench.disturbance import waited_share
        from ryzen_mpi.cluster.kernel import read_threads

        mine: dict[str, list[list[float]]] = {name: [] for name in sides}
        turns: dict[str, list[float]] = {name: [] for name in sides}
        before, began = read_threads(), time.perf_counter_ns()
        for number in range(self.request.rounds + WARMUP_ROUNDS):
            for name in _rotated(list(sides), number):
                seconds, turn_s = self._turn(sides[name], apart="beside" in name)
                if number >= WARMUP_ROUNDS:
                    mine[name].append(seconds)
                    turns[name].append(turn_s / self.request.steps)
        waited = waited_share(before, read_threads(), time.perf_counter_ns() - began)
        everyone = self.world.exchange.allgather([mine, turns, waited])
        return {
            name: {
                "rank_s": [rank[0][name] for rank in everyone],
                "turn_s": [max(column) for column in zip(*(rank[1][name] for rank in everyone), strict=True)],
                "waited_share": max((rank[2] for rank in everyone if rank[2] == rank[2]), default=None),
            }
            for name in sides
        }

    def _turn(self, run: Callable[[], object], apart: bool) -> tuple[list[float], float]:
        """Seconds of each step of a turn on this rank, and of all; `apart`: ranks meet before every step."""
        import torch.distributed as dist

        seconds: list[float] = []
        dist.barrier()
        first = time.perf_counter()
        for _ in range(self.request.steps):
            if apart:
                dist.barrier()
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
        return seconds, time.perf_counter() - first

    def _collective(self) -> list[dict[str, Any]]:
        """Seconds of all-reduces in the memory the gradient lies in, on the slowest rank, by size."""
        import torch
        import torch.distributed as dist

        from ryzen_mpi.comm.arena import shared_memory

        gradient = self.whole.strategy.layout.size * 4
        sizes = sorted({SMALL_BYTES, *(min(LARGE_BYTES, max(SMALL_BYTES, gradient // part)) for part in (8, 1))})
        memory = shared_memory(None) if self.settings.distributed.arena else None
        whole = torch.zeros(sizes[-1] // 4) if memory is None else memory(sizes[-1] // 4, torch.float32)
        calls = {size: (lambda size=size: dist.all_reduce(whole[: size // 4])) for size in sizes}
        return [{"bytes": size, "s": self._slowest(call)} for size, call in calls.items()]

    def _compression(self) -> dict[str, dict[str, Any]]:
        """Seconds of each compressor's all-reduce of the gradient between ranks that take one another for nodes.

        They share memory, so it is nearly all arithmetic; what the network adds is the model's matter.
        """
        import torch

        from ryzen_mpi.comm.compression.choose import COMPRESSORS
        from ryzen_mpi.comm.compression.wire import Wire
        from ryzen_mpi.comm.waiting import Patience

        count = min(LARGE_BYTES // 4, self.whole.strategy.layout.size)
        values, comm, found = torch.randn(count), self.world.comm.Dup(), {}
        for name, make in COMPRESSORS.items():
            compressor = make(Wire(comm, Patience(60.0)), self.settings.distributed)

            def call(compressor: Any = compressor) -> None:
                compressor.begin()
                compressor.all_reduce(values.mul_(0.5))
                compressor.keep()

            found[name] = {"bytes": 4 * count, "s": self._slowest(call, 6)}
        comm.Free()
        return found

    def _slowest(self, call: Callable[[], object], calls: int = CALLS) -> list[float]:
        """Seconds of `calls` calls (fewer where they are slow) on the slowest rank, those to warm up left out."""
        warm_s = max(max(one) for one in self.world.exchange.allgather(_timed(call, WARMUP_CALLS)[1:]))
        count = max(LEAST_CALLS, min(calls, int(PATIENCE_S / warm_s)))
        return [max(column) for column in zip(*self.world.exchange.allgather(_timed(call, count)), strict=True)]

    def _checkpoint(self) -> dict[str, Any]:
        """Bytes of a checkpoint and the seconds rank 0 takes to put it on the disk of the request's folder."""
        from ryzen_mpi.training.checkpoint_store import tensor_bytes, write_checkpoint
        from ryzen_mpi.training.state import checkpoint_tensors

        tensors, seconds = checkpoint_tensors(self.whole), []
        if self.world.is_leader:
            with tempfile.TemporaryDirectory(dir=self.request.folder) as folder:
                for step in range(3):
                    began = time.perf_counter()
                    write_checkpoint(Path(folder), step, tensors, {})
                    seconds.append(time.perf_counter() - began)
        return self.world.exchange.broadcast({"bytes": tensor_bytes(tensors), "s": seconds})


def _timed(call: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` calls on this rank; all meet before each. Collective."""
    import torch.distributed as dist

    seconds = []
    for _ in range(count):
        dist.barrier()
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def _steps_of(step: TrainingStep, batch: int) -> Callable[[], object]:
    """One step of `batch` samples."""

    def run() -> object:
        step.global_batch = batch
        return step.run()

    return run


def _rotated(names: Sequence[str], number: int) -> list[str]:
    """Another side goes first each round: nobody always follows the same one."""
    first = number % max(1, len(names))
    return [*names[first:], *names[:first]]
