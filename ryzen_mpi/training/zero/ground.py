"""What ZeRO stands on: where gradients and weights lie, and how the owners of shards get and give them.

Two grounds: memory that the ranks of a node share, where a bucket is added up in place and weights are there once
(`NodeGround`); and ordinary collectives, on private memory, which work with any backend (`PlainGround`).
"""

from __future__ import annotations

import math
import time
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
        reason: which ground this is and why, for people.
        traffic: what it has sent of gradients to other nodes since `begin`.
    """

    reason: str
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

        slots [slots, bucket]: this rank's gradients, one bucket each; weights [padded] that the model computes with,
        of which places [buckets, part] are this rank's; state [4, shard]: its master weights, moments and gradient.
        """

    slots: Tensor
    weights: Tensor
    places: Tensor
    state: Tensor

    def reduce(self, slot: int, target: Tensor, add: bool, meet: bool = True) -> None:
        """Sums the slot over the ranks of a node into `target` [nodes, part], or adds it. Collective.

        The slot before it is free afterwards. `meet`: false where all ranks are known to have filled this slot, since
        they came to the reduction of another one.
        """

    def across(self, parts: Tensor, own: Tensor) -> None:
        """Sums over nodes: of `parts` [nodes, shard] row m goes to node m; `own` [shard] is the sum. Collective."""

    def spread(self) -> None:
        """What every rank has written into its `places` into everybody's weights. Collective."""

    def changing(self, step: int) -> None:
        """This rank's state is about to become that after `step` updates: noted where others can read it. Local."""

    def whole(self) -> None:
        """This rank's state is what was announced. Local."""


class PlainGround:
    """By ordinary collectives, on private memory: every rank holds all weights."""

    def __init__(self, group: dist.ProcessGroup | None, why: str = "") -> None:
        self.group, self.local, self.nodes = group, world_size(group), 1
        self.reason = why
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
        self.places = cut.owned(self.weights, self.me)
        self.state = torch.zeros(4, cut.shard, dtype=wide)
        self._sum = torch.empty(cut.part, dtype=wide)

    def reduce(self, slot: int, target: Tensor, add: bool, meet: bool = True) -> None:
        began, whole = time.perf_counter(), self.slots[slot]
        if self.local == 1:
            part = whole
        else:
            dist.reduce_scatter_single(self._sum, whole, group=self.group)
            part = self._sum
        target[0].add_(part) if add else target[0].copy_(part)
        self.blocked_s += time.perf_counter() - began

    def across(self, parts: Tensor, own: Tensor) -> None:
        own.copy_(parts[0])

    def changing(self, step: int) -> None:
        pass  # nobody else could read it

    def whole(self) -> None:
        pass

    def spread(self) -> None:
        began = time.perf_counter()
        if self.local > 1:
            for bucket, part in zip(self.weights.view(self.cut.buckets, -1), self.places, strict=True):
                # a copy: not every backend gathers into the memory it sends from
                dist.all_gather_single(bucket, part.clone(), group=self.group)
        self.blocked_s += time.perf_counter() - began


def choose_ground(group: dist.ProcessGroup | None, settings: Settings, domain: int | None = None) -> Ground:
    """The node's shared memory where the group can give it and nodes are alike, else ordinary collectives. Collective.

    `domain`: of the NUMA domain this rank runs on, None where there are several. Raises UserError where there is
    compression to do and nothing is known of nodes.
    """
    from ryzen_mpi.training.zero.node import NodeGround

    if world_size(group) == 1:
        return PlainGround(group, "this rank's own memory: one rank")
    group = group or dist.group.WORLD
    check_possible(settings.distributed, group)
    hardware, why = settings.hardware, ""
    if not hasattr(group, "arena"):
        why = f"backend {dist.get_backend(group)}"
    elif not settings.distributed.arena:
        why = "distributed.arena=false"
    elif not group.collectives.locality.even:
        why = "the nodes hold different numbers of ranks"
    else:
        compressor = make_compressor(settings.distributed, group)
        return NodeGround(group, hardware.shared_folder, hardware.weights_per, domain, compressor)
    return PlainGround(group, f"ordinary collectives, weights once a rank: {why}")
