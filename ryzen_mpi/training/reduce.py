"""Gradients of all ranks summed into the flat gradient: by the book, and fast.

The loss is already divided by the tokens of the global batch, so the sum over ranks is the gradient; no division
follows, and ranks may hold different numbers of samples (or none).
"""

from __future__ import annotations

import math
import time
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.comm.compression.choose import all_reduce_bytes
from ryzen_mpi.comm.compression.wire import Compressor, Traffic
from ryzen_mpi.training.flat import FlatParameters

BUCKET_BYTES = 4 << 20
BROADCAST_BYTES = 64 << 20


class Reducer(Protocol):
    """How a step's gradients come together. All ranks must call `begin`, `last_micro_batch` and `finish` alike.

    Attributes:
        traffic: what this rank has sent to other nodes since `begin`.
    """

    traffic: Traffic

    def begin(self) -> None:
        """A step starts: what backward delivers next replaces the gradient."""

    def last_micro_batch(self) -> None:
        """The next backward is the step's last on this rank: finished parts may be reduced."""

    def finish(self) -> float:
        """Collective. Returns the seconds this rank was blocked; the flat gradient is complete afterwards."""

    def keep(self) -> None:
        """The step counts, and was not skipped. Local, alike on all ranks."""


class NaiveReducer:
    """Adds up `parameter.grad` after every backward and reduces one parameter after the other at the end."""

    def __init__(self, flat: FlatParameters, group: dist.ProcessGroup | None = None) -> None:
        self.flat, self.group, self.traffic = flat, group, Traffic(math.nan, math.nan)

    def keep(self) -> None:
        pass

    def begin(self) -> None:
        for parameter in self.flat.parameters.values():
            parameter.grad = None

    def last_micro_batch(self) -> None:
        pass

    def finish(self) -> float:
        started = time.perf_counter()
        self.flat.gradient.zero_()
        for place in self.flat.places:
            whole, part = self.flat.view(self.flat.gradient, place), self.flat.parameters[place.name].grad
            if part is not None:
                whole.copy_(part)
            if world_size(self.group) > 1:
                dist.all_reduce(whole, group=self.group)
        return time.perf_counter() - started


class BucketedReducer:
    """Moves every gradient into the flat vector when it is final, and reduces whole buckets while backward goes on.

    The bucket order is the flat order, which is nearly the order of backward; a bucket is only launched after those
    before it, so that all ranks launch the same sequence whatever they computed.
    """

    def __init__(
        self, flat: FlatParameters, group: dist.ProcessGroup | None = None, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self.flat, self.group = flat, group
        self.alone = world_size(group) == 1
        self.buckets, bucket_of = _cut(flat, bucket_bytes)
        self.members = [list(bucket_of.values()).count(b) for b in range(len(self.buckets))]
        for place in flat.places:
            target = flat.view(flat.gradient, place)
            hook = self._hook(target, bucket_of[place.name], place.name)
            flat.parameters[place.name].register_post_accumulate_grad_hook(hook)
        self.works: list[dist.Work] = []
        self.written: set[str] = set()
        self.pending = list(self.members)
        self.launching = False
        self.traffic = Traffic() if self.alone else Traffic(math.nan, math.nan)

    def keep(self) -> None:
        pass

    def begin(self) -> None:
        self.works, self.launching = [], False
        self.pending = list(self.members)
        self.written.clear()

    def last_micro_batch(self) -> None:
        self.launching = True

    def finish(self) -> float:
        for place in self.flat.places:  # parameters this rank did not use, or had no sample for
            if place.name not in self.written:
                self.flat.view(self.flat.gradient, place).zero_()
        return self._reduce()

    def _reduce(self) -> float:
        self.pending = [0] * len(self.buckets)
        self._launch()
        started = time.perf_counter()
        for work in self.works:
            work.wait()
        return time.perf_counter() - started if self.works else 0.0

    def _hook(self, target: Tensor, bucket: int, name: str):
        def take(parameter: Tensor) -> None:
            if name in self.written:
                target.add_(parameter.grad)
            else:
                target.copy_(parameter.grad)
                self.written.add(name)
            parameter.grad = None
            if self.launching:
                self.pending[bucket] -= 1
                self._launch()

        return take

    def _launch(self) -> None:
        if self.alone:
            return
        while len(self.works) < len(self.buckets) and self.pending[len(self.works)] == 0:
            bucket = self.buckets[len(self.works)]
            self.works.append(dist.all_reduce(bucket, group=self.group, async_op=True))


class ArenaReducer(BucketedReducer):
    """Reduces the whole gradient when backward is over, in the memory the ranks of a node share.

    That takes a hundredth of backward, so there is nothing to hide behind it, and no thread takes a core from it.
    Across nodes the pieces of the one all-reduce overlap one another.
    """

    def __init__(self, flat: FlatParameters, group: Any = None) -> None:
        super().__init__(flat, group)
        self.group = group or dist.group.WORLD
        self.plain_bytes = all_reduce_bytes(self.group.collectives.locality, flat.gradient.nbytes)
        self.traffic = Traffic()

    def begin(self) -> None:
        super().begin()
        self.traffic.begin()

    def last_micro_batch(self) -> None:
        pass

    def _reduce(self) -> float:
        started = time.perf_counter()
        dist.all_reduce(self.flat.gradient, group=self.group)
        self.traffic.sent = self.traffic.plain = self.plain_bytes
        return time.perf_counter() - started


class CompressedReducer(ArenaReducer):
    """The same, with a compressor for the slice that crosses from node to node."""

    def __init__(self, flat: FlatParameters, group: Any, compressor: Compressor) -> None:
        super().__init__(flat, group)
        self.compressor, self.traffic = compressor, compressor.traffic

    def begin(self) -> None:
        super().begin()
        self.compressor.begin()

    def keep(self) -> None:
        self.compressor.keep()

    def _reduce(self) -> float:
        started = time.perf_counter()
        self.group.allreduce_by(self.flat.gradient, self.compressor.all_reduce)
        for begin, end in self.flat.layout.gaps():  # where an approximation is not zero, and would be added up again
            self.flat.gradient[begin:end] = 0
        self.traffic.plain = self.plain_bytes
        return time.perf_counter() - started


def _cut(flat: FlatParameters, bucket_bytes: int) -> tuple[list[Tensor], dict[str, int]]:
    """The flat gradient cut at parameter boundaries into buckets of about `bucket_bytes`."""
    limit = max(1, bucket_bytes // flat.gradient.element_size())
    starts, bucket_of = [0], {}
    for place in flat.places:
        if place.offset > starts[-1] and place.end - starts[-1] > limit:
            starts.append(place.offset)
        bucket_of[place.name] = len(starts) - 1
    ends = [*starts[1:], flat.gradient.numel()]
    return [flat.gradient[a:b] for a, b in zip(starts, ends, strict=True)], bucket_of


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Ranks of the group; 1 where torch.distributed was not initialised."""
    return dist.get_world_size(group) if dist.is_initialized() else 1


def broadcast_vector(vector: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Rank 0's `vector` into everyone's, in pieces: each has the group's timeout to itself. Collective."""
    for piece in vector.split(BROADCAST_BYTES // vector.element_size()):
        dist.broadcast(piece, src=0, group=group)
