"""What ZeRO stands on: where gradients and weights lie, and how the owners of shards get and give them.

Two grounds: memory that the ranks of a node share, where a bucket is added up in place and weights are there once
(`NodeGround`); and ordinary collectives, on private memory, which work with any backend (`PlainGround`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.comm.compression.choose import check_possible, make_compressor
from ryzen_mpi.comm.compression.wire import Traffic
from ryzen_mpi.config import Settings
from ryzen_mpi.training.reduce import world_size
from ryzen_mpi.training.zero.cut import Cut, Owner


class Ground(Protocol):
    """All ranks call the same methods in the same order.

    Attributes:
        local, nodes: ranks of a node, nodes: what a `Cut` needs to know.
        me: this rank's place; owners: everybody's, by rank.
        blocked_s: seconds this rank has waited for others or carried their data since `begin`.
        traffic: what it has sent of gradients to other nodes since `begin`.
    """

    local: int
    nodes: int
    me: Owner
    owners: list[Owner]
    blocked_s: float
    traffic: Traffic

    def begin(self) -> None:
        """A step starts. Local."""

    def keep(self) -> None:
        """The step counts, and was not skipped. Local, alike on all ranks."""

    def lay(self, cut: Cut, slots: int, gradient: torch.dtype, wide: torch.dtype, compute: torch.dtype) -> None:
        """Makes the memory below; collective. Raises UserError where there is not enough.

        slots [slots, bucket]: this rank's gradients, one bucket each; weights [padded] that the model computes with;
        state [4, shard]: this rank's master weights, moments and gradient.
        """

    slots: Tensor
    weights: Tensor
    state: Tensor

    def reduce(self, slot: int, target: Tensor, add: bool, meet: bool = True) -> None:
        """Sums the slot over the ranks of a node into `target` [nodes, part], or adds it. Collective.

        The slot before it is free afterwards. `meet`: false where all ranks are known to have filled this slot, since
        they came to the reduction of another one.
        """

    def across(self, parts: Tensor, own: Tensor) -> None:
        """Sums over nodes: of `parts` [nodes, shard] row m goes to node m; `own` [shard] is the sum. Collective."""

    def spread(self, changed: Tensor) -> None:
        """This rank's weights [shard], in whatever precision, into everybody's. Collective."""


class PlainGround:
    """By ordinary collectives: every rank is a node of its own, as it were, and holds all weights."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group, self.local, self.nodes = group, world_size(group), 1
        self.owners = [Owner(rank, 0) for rank in range(self.local)]
        self.me = self.owners[dist.get_rank(group) if self.local > 1 else 0]
        self.blocked_s = 0.0
        self.traffic = Traffic() if self.local == 1 else Traffic(math.nan, math.nan)

    def begin(self) -> None:
        self.blocked_s = 0.0

    def keep(self) -> None:
        pass

    def lay(self, cut: Cut, slots: int, gradient: torch.dtype, wide: torch.dtype, compute: torch.dtype) -> None:
        self.cut = cut
        self.slots = torch.zeros(slots, cut.bucket, dtype=wide)  # not every backend adds narrow ones
        self.weights = torch.zeros(cut.padded, dtype=compute)
        self.state = torch.zeros(4, cut.shard, dtype=wide)
        self._sum = torch.empty(cut.part, dtype=wide)

    def reduce(self, slot: int, target: Tensor, add: bool, meet: bool = True) -> None:
        began, whole = time.perf_counter(), self.slots[slot]
        if self.local == 1:
            part = whole
        else:
            dist.reduce_scatter_tensor(self._sum, whole, group=self.group)
            part = self._sum
        target[0].add_(part) if add else target[0].copy_(part)
        self.blocked_s += time.perf_counter() - began

    def across(self, parts: Tensor, own: Tensor) -> None:
        own.copy_(parts[0])

    def spread(self, changed: Tensor) -> None:
        began, narrow = time.perf_counter(), changed.to(self.weights.dtype)
        for bucket, part in zip(self.weights.view(self.cut.buckets, -1), narrow.split(self.cut.part), strict=True):
            if self.local == 1:
                bucket.copy_(part)
            else:
                dist.all_gather_into_tensor(bucket, part, group=self.group)
        self.blocked_s += time.perf_counter() - began


def choose_ground(group: dist.ProcessGroup | None, settings: Settings) -> Ground:
    """The node's shared memory where the group can give it and nodes are alike, else ordinary collectives. Local.

    Raises UserError where there is compression to do and nothing is known of nodes.
    """
    from ryzen_mpi.training.zero.node import NodeGround

    make: Callable | None = getattr(group or dist.group.WORLD, "arena", None) if world_size(group) > 1 else None
    if world_size(group) > 1:
        check_possible(settings.distributed, group or dist.group.WORLD)
    if make is None or not settings.distributed.arena:
        return PlainGround(group)
    group = group or dist.group.WORLD
    compressor = make_compressor(settings.distributed, group)
    node = NodeGround(group, settings.hardware.shared_folder, compressor)
    return node if node.possible else PlainGround(group)
