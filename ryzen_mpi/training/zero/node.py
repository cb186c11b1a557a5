"""ZeRO on the memory that the ranks of a node share; nodes exchange only the parts whose owner is elsewhere."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from ryzen_mpi.comm.across import as_bytes
from ryzen_mpi.comm.compression.wire import Compressor, Traffic
from ryzen_mpi.comm.node_memory import NodeMemory
from ryzen_mpi.comm.plain import tensor_at
from ryzen_mpi.comm.widen import widen_sum
from ryzen_mpi.training.zero.cut import Cut, Owner

PIECE_BYTES = 8 << 20
"""Of what a node sends to another at a time."""


class NodeGround:
    """Gradients in the slots of an arena, everything else in the node's one memory. See `ground.Ground`.

    Args:
        group: a process group that has arenas.
        folder: where the node's memory is made.
        compressor: of what goes to other nodes; None where there are none.
    """

    def __init__(self, group: Any, folder: str, compressor: Compressor | None) -> None:
        self.group, self.folder = group, folder
        self.locality = group.collectives.locality
        self.local, self.nodes = self.locality.node.size, self.locality.nodes
        self.owners = [Owner(local, node) for node, local in self.locality.places]
        self.me = self.owners[self.locality.comm.rank]
        self.blocked_s = 0.0
        self.compressor = compressor
        self.traffic = compressor.traffic if compressor else Traffic()

    def begin(self) -> None:
        self.blocked_s = 0.0
        if self.compressor:
            self.compressor.begin()

    def keep(self) -> None:
        if self.compressor:
            self.compressor.keep()

    @property
    def possible(self) -> bool:
        """Whether all nodes have the same number of ranks: parts of a slice are otherwise not alike."""
        return self.locality.even

    def lay(self, cut: Cut, slots: int, gradient: torch.dtype, wide: torch.dtype, compute: torch.dtype) -> None:
        self.cut = cut
        self.arena = self.group.arena(slots * cut.bucket * gradient.itemsize)
        mine = self.arena.empty(slots * cut.bucket, gradient)
        offset = mine.data_ptr() - self.arena.base
        self.slots = mine.view(slots, cut.bucket)
        everyone = [tensor_at(base + offset, mine.numel(), gradient) for base in self.arena.region.base]
        mine_of = cut.part * cut.nodes * self.me.local
        self._slices = [
            whole.view(slots, cut.bucket)[:, mine_of : mine_of + cut.part * cut.nodes].unflatten(1, (cut.nodes, -1))
            for whole in everyone
        ]
        size = cut.padded * compute.itemsize + 4 * self.local * cut.shard * wide.itemsize + 2 * 4096
        comm = self.locality.node
        self.memory = NodeMemory(comm, self.locality.comm.rank, size, self.folder)
        share = -(-cut.padded // self.local)
        begin = min(cut.padded, share * comm.rank)
        self.weights = self.memory.take(cut.padded, compute, slice(begin, min(cut.padded, begin + share)))
        own = slice(4 * cut.shard * comm.rank, 4 * cut.shard * (comm.rank + 1))
        everything = self.memory.take(4 * cut.shard * self.local, wide, own)
        self.state = everything[own].view(4, cut.shard)
        self.places = cut.owned(self.weights, self.me)

    def reduce(self, slot: int, target: Tensor, add: bool, meet: bool = True) -> None:
        began = time.perf_counter()
        if meet:
            self.arena.engine.barrier()
        for node in range(self.nodes):
            widen_sum([slices[slot, node] for slices in self._slices], target[node], add)
        self.blocked_s += time.perf_counter() - began

    def across(self, parts: Tensor, own: Tensor) -> None:
        began = time.perf_counter()
        if self.nodes == 1:
            own.copy_(parts[0])
        else:
            self.compressor.reduce_scatter(parts, own)
            self.traffic.plain += parts[0].nbytes * (self.nodes - 1)
        self.blocked_s += time.perf_counter() - began

    def spread(self, changed: Tensor) -> None:
        self.places.copy_(changed.view(self.cut.buckets, -1))
        began = time.perf_counter()
        if self.nodes > 1:
            self._gather(changed.to(self.weights.dtype).view(self.cut.buckets, -1))
        self.arena.engine.barrier()
        self.blocked_s += time.perf_counter() - began

    def _gather(self, narrow: Tensor) -> None:
        """The parts that ranks of other nodes own, some buckets at a time."""
        across, cut = self.locality.across, self.cut
        slices = self.weights.view(cut.buckets, cut.local, cut.nodes, cut.part)[:, self.me.local]
        step = max(1, PIECE_BYTES // (cut.part * narrow.element_size()))
        for begin in range(0, cut.buckets, step):
            sent = narrow[begin : begin + step].contiguous()
            got = torch.empty((cut.nodes, *sent.shape), dtype=sent.dtype)
            self.arena.patience.finish(across.Iallgather(as_bytes(sent), as_bytes(got)))
            for node in range(cut.nodes):
                if node != self.me.node:
                    slices[begin : begin + step, node].copy_(got[node])
