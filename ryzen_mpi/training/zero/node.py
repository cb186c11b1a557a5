"""ZeRO on the memory that the ranks of a node share; nodes exchange only the parts whose owner is elsewhere."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from ryzen_mpi.cluster.exchange import MpiExchange
from ryzen_mpi.comm.across import as_bytes
from ryzen_mpi.comm.compression.wire import Compressor, Traffic
from ryzen_mpi.comm.node_memory import NodeMemory, room
from ryzen_mpi.comm.region import PAGE
from ryzen_mpi.comm.widen import widen_sum
from ryzen_mpi.training.zero.cut import Cut, Owner

PIECE_BYTES = 8 << 20
"""Of what a node sends to another at a time."""


class NodeGround:
    """Everything in the node's one memory; an arena is where its ranks meet. See `ground.Ground`.

    Args:
        group: a process group that has arenas, over nodes of equally many ranks: parts of a slice are alike then.
        folder: where the node's memory is made.
        weights_per: how many copies of the weights there are: one a `node`, NUMA domain (`numa`) or `rank`.
        domain: the NUMA domain this rank runs on; None, several, counts as one of its own.
        compressor: of what goes to other nodes; None where there are none.
    """

    def __init__(
        self,
        group: Any,
        folder: str,
        weights_per: str = "node",
        domain: int | None = None,
        compressor: Compressor | None = None,
    ) -> None:
        self.group, self.folder = group, folder
        self.locality = group.collectives.locality
        self.local, self.nodes = self.locality.node.size, self.locality.nodes
        self.owners = [Owner(local, node) for node, local in self.locality.places]
        self.me = self.owners[self.locality.comm.rank]
        self.blocked_s = 0.0
        key = {"node": 0, "numa": -1 if domain is None else domain, "rank": self.me.local}[weights_per]
        keys = MpiExchange(self.locality.node).allgather(key)
        self._copies = [[rank for rank in range(self.local) if keys[rank] == key] for key in sorted(set(keys))]
        name = {"numa": "NUMA domain"}.get(weights_per, weights_per)
        self.reason = f"node memory in {folder}, weights once a {name}"
        self.compressor = compressor
        self.traffic = compressor.traffic if compressor else Traffic()

    def begin(self) -> None:
        self.blocked_s = 0.0
        if self.compressor:
            self.compressor.begin()

    def keep(self) -> None:
        if self.compressor:
            self.compressor.keep()

    def lay(self, cut: Cut, slots: int, gradient: torch.dtype, wide: torch.dtype, compute: torch.dtype) -> None:
        self.cut, local = cut, self.local
        filled, state = slots * cut.bucket, 4 * cut.shard
        copies = [cut.padded * compute.itemsize] * len(self._copies)
        size = room([filled * local * gradient.itemsize, *copies, state * local * wide.itemsize])
        self.memory = NodeMemory(self.locality.node, self.locality.comm, size, self.folder)
        self.arena = self.group.arena(PAGE)
        self._lay_slots(slots, gradient)
        weights = [self._lay_weights(compute, users) for users in self._copies]
        self.weights = next(w for w, users in zip(weights, self._copies, strict=True) if self.me.local in users)
        own = slice(state * self.me.local, state * (self.me.local + 1))
        self.state = self.memory.take(state * local, wide, [own])[own].view(4, cut.shard)
        self.memory.close()
        self.places = cut.owned(self.weights, self.me)
        self.others = [cut.owned(copy, self.me) for copy in weights if copy is not self.weights]
        shape = cut.buckets, cut.local, cut.nodes, cut.part
        self._received = [copy.view(shape)[:, self.me.local] for copy in weights]

    def _lay_slots(self, slots: int, gradient: torch.dtype) -> None:
        """The slots of all ranks. Who adds up a slice gets its pages."""
        cut, mine = self.cut, self.cut.part * self.nodes
        starts = range(mine * self.me.local, self.local * slots * cut.bucket, cut.bucket)
        everyone = self.memory.take(self.local * slots * cut.bucket, gradient, [slice(s, s + mine) for s in starts])
        everyone = everyone.view(self.local, slots, cut.bucket)
        self.slots = everyone[self.me.local]
        slices = everyone[:, :, mine * self.me.local : mine * (self.me.local + 1)]
        self._slices = list(slices.unflatten(2, (self.nodes, cut.part)))  # [slots, nodes, part] of every rank

    def _lay_weights(self, compute: torch.dtype, users: list[int]) -> Tensor:
        """A copy of the weights. Those who compute with it get its pages."""
        mine = []
        if self.me.local in users:
            size, share = self.cut.padded, -(-self.cut.padded // len(users))
            begin = min(size, share * users.index(self.me.local))
            mine = [slice(begin, min(size, begin + share))]
        return self.memory.take(self.cut.padded, compute, mine)

    def changing(self, step: int) -> None:
        self.memory.changing(step)

    def whole(self) -> None:
        self.memory.whole()

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

    def spread(self) -> None:
        for places in self.others:
            places.copy_(self.places)
        began = time.perf_counter()
        if self.nodes > 1:
            self._gather()
        self.arena.engine.barrier()
        self.blocked_s += time.perf_counter() - began

    def _gather(self) -> None:
        """The parts that ranks of other nodes own, some buckets at a time."""
        across, cut = self.locality.across, self.cut
        step = max(1, PIECE_BYTES // (cut.part * self.places.element_size()))
        for begin in range(0, cut.buckets, step):
            sent = self.places[begin : begin + step].contiguous()
            got = torch.empty((cut.nodes, *sent.shape), dtype=sent.dtype)
            self.arena.patience.finish(across.Iallgather(as_bytes(sent), as_bytes(got)))
            for node in range(cut.nodes):
                if node != self.me.node:
                    for copy in self._received:
                        copy[begin : begin + step, node].copy_(got[node])
