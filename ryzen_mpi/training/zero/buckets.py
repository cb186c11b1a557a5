"""From backward's gradients to sums in the owners' hands, bucket by bucket."""

from __future__ import annotations

from torch import Tensor

from ryzen_mpi.training.flat import Layout, Place
from ryzen_mpi.training.zero.cut import Cut
from ryzen_mpi.training.zero.ground import Ground

RING = 2
"""Slots of stage 2: one is being filled while the one before is added up by ranks that are behind."""


class WholeGradient:
    """Stage 1: every rank adds up all its micro-batches, and the sums over ranks follow at the end of the step.

    The slots are filled again after the ranks' agreement on the step, hence after all have read them.
    """

    def __init__(self, ground: Ground, cut: Cut, layout: Layout, parts: Tensor) -> None:
        self.ground, self.cut, self.layout, self.parts = ground, cut, layout, parts
        self.flat = ground.slots.view(-1)
        self._written: set[str] = set()

    def begin(self) -> None:
        self._written.clear()

    def take(self, place: Place, gradient: Tensor) -> None:
        """A parameter's gradient of one micro-batch."""
        target = self.flat[place.offset : place.end].view(place.shape)
        if place.name in self._written:
            target.add_(gradient)
        else:
            target.copy_(gradient)
            self._written.add(place.name)

    def end_micro_batch(self) -> None:
        pass

    def finish(self) -> None:
        """Collective."""
        for place in self.layout.places:  # what this rank did not use, or had no sample for
            if place.name not in self._written:
                self.flat[place.offset : place.end].zero_()
        for bucket in range(self.cut.buckets):
            self.ground.reduce(bucket, bucket_parts(self.parts, self.cut, bucket), add=False, meet=bucket == 0)


class BucketRing:
    """Stage 2: a bucket is added up over ranks as soon as it is full, in every micro-batch, and its memory used again.

    All ranks fill and reduce the same buckets in the same order. A gradient that comes before its bucket is due waits.
    """

    def __init__(self, ground: Ground, cut: Cut, layout: Layout, parts: Tensor) -> None:
        self.ground, self.cut, self.layout, self.parts = ground, cut, layout, parts
        self._wanted = [0] * cut.buckets
        for place in layout.places:
            for bucket in range(place.offset // cut.bucket, -(-place.room // cut.bucket)):
                begin, end = self._bounds(bucket)
                self._wanted[bucket] += min(end, place.room) - max(begin, place.offset)
        self._first, self._slot = True, 0
        self._start()

    def begin(self) -> None:
        self._first = True
        self._start()

    def take(self, place: Place, gradient: Tensor | None) -> None:
        """A parameter's gradient of one micro-batch; None where it has none."""
        self._seen.add(place.name)
        self._deliver(place, None if gradient is None else gradient.reshape(-1), place.offset)
        while self._front < self.cut.buckets and not self._missing[self._front]:
            self._reduce_front()
            for waiting in self._waiting.pop(self._front, ()):
                self._deliver(*waiting)

    def end_micro_batch(self) -> None:
        """Collective: a rank without a sample comes here as well."""
        for place in self.layout.places:
            if place.name not in self._seen:
                self.take(place, None)
        self._first = False
        self._start()

    def finish(self) -> None:
        pass

    def _start(self) -> None:
        self._front = 0
        self._missing = list(self._wanted)
        self._waiting: dict[int, list[tuple[Place, Tensor | None, int]]] = {}
        self._seen: set[str] = set()

    def _bounds(self, bucket: int) -> tuple[int, int]:
        return bucket * self.cut.bucket, (bucket + 1) * self.cut.bucket

    def _deliver(self, place: Place, gradient: Tensor | None, done: int) -> None:
        """Copies a gradient from `done` on into the front bucket; what belongs into later ones waits for them."""
        begin, end = self._bounds(self._front)
        if done < end:
            high = min(place.room, end)
            target, filled = self.ground.slots[self._slot][done - begin : high - begin], 0
            if gradient is not None:
                part = gradient[done - place.offset : high - place.offset]
                filled = part.numel()
                target[:filled].copy_(part)
            target[filled:].zero_()
            self._missing[self._front] -= high - done
            done = high
        if done < place.room:
            self._waiting.setdefault(done // self.cut.bucket, []).append((place, gradient, done))

    def _reduce_front(self) -> None:
        _, end = self._bounds(self._front)
        if end > self.layout.size:
            self.ground.slots[self._slot][self.layout.size - end :].zero_()
        self.ground.reduce(self._slot, bucket_parts(self.parts, self.cut, self._front), add=not self._first)
        self._front += 1
        # also from one micro-batch to the next: who is behind may still read the slot before
        self._slot = (self._slot + 1) % RING


def bucket_parts(parts: Tensor, cut: Cut, bucket: int) -> Tensor:
    """[nodes, part]: a bucket's share of this rank's sums [nodes, shard]; a view."""
    return parts.view(cut.nodes, cut.buckets, cut.part)[:, bucket]
