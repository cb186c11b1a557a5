"""How a flat vector is cut among ranks. Arithmetic alone.

A vector is cut into buckets, a bucket into one slice a rank of a node, a slice into one part a node. So every bucket is
everybody's work as soon as it is complete, inside a node a slice is added up where it lies, and only parts travel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

ALIGNMENT = 64
"""Elements a part is a multiple of: whole cache lines in any precision."""


@dataclass(frozen=True)
class Owner:
    """Rank `local` of node `node`."""

    local: int
    node: int


@dataclass(frozen=True)
class Cut:
    """A vector seen as [buckets, local, nodes, part]: element (k, r, m, i) belongs to rank r of node m.

    Attributes:
        size: elements of the vector; the rest of the last bucket is padding.
    """

    size: int
    buckets: int
    local: int
    nodes: int
    part: int

    @classmethod
    def of(cls, size: int, bucket: int, local: int, nodes: int) -> Cut:
        """The cut of `size` elements into equal buckets of about `bucket` elements, with the least padding."""
        unit = ALIGNMENT * local * nodes
        count = max(1, round(size / bucket))
        whole = -(-size // (count * unit)) * unit
        return cls(size, -(-size // whole), local, nodes, whole // (local * nodes))

    @property
    def bucket(self) -> int:
        """Elements of a bucket."""
        return self.local * self.nodes * self.part

    @property
    def padded(self) -> int:
        """Elements of all buckets."""
        return self.buckets * self.bucket

    @property
    def shard(self) -> int:
        """Elements a rank owns."""
        return self.buckets * self.part

    def owned(self, vector: Tensor, owner: Owner) -> Tensor:
        """[buckets, part]: the owner's parts of a whole vector; a view."""
        return vector.view(self.buckets, self.local, self.nodes, self.part)[:, owner.local, owner.node]

    def start(self, bucket: int, owner: Owner) -> int:
        """Where the owner's part of a bucket begins in the vector."""
        return bucket * self.bucket + (owner.local * self.nodes + owner.node) * self.part

    def before(self, boundary: int, owner: Owner) -> int:
        """How many of the owner's elements lie before `boundary`: they come first in its shard, which is in order."""
        starts = (self.start(bucket, owner) for bucket in range(self.buckets))
        return sum(min(self.part, max(0, boundary - start)) for start in starts)

    def overlaps(self, begin: int, end: int, owner: Owner) -> Iterator[tuple[int, int, int]]:
        """Where the stretch [begin, end) of the vector lies in the owner's shard.

        Yields (place in the shard, place in the stretch, length).
        """
        for bucket in range(begin // self.bucket, -(-end // self.bucket)):
            start = self.start(bucket, owner)
            low, high = max(begin, start), min(end, start + self.part)
            if low < high:
                yield bucket * self.part + low - start, low - begin, high - low

    def stretches(self, shard: Tensor, owner: Owner) -> Iterator[tuple[int, Tensor]]:
        """The parts of an owner's `shard` with their places in the vector, without padding; views."""
        for bucket, values in enumerate(shard.split(self.part)):
            begin = self.start(bucket, owner)
            if begin < self.size:
                yield begin, values[: self.size - begin]

    def put(self, shard: Tensor, begin: int, values: Tensor, owner: Owner) -> None:
        """Copies the owner's share of `values`, the vector's stretch from `begin`, into its `shard` [shard]."""
        for there, here, length in self.overlaps(begin, begin + values.numel(), owner):
            shard[there : there + length].copy_(values[here : here + length])
