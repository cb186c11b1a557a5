"""Flat memory the ranks of a node share, and collectives on tensors that lie in it: nothing is copied.

Every rank of a node has a slot of the arena, and a tensor has the same place in every slot. In an all-reduce each rank
takes one slice, reads it in all slots, adds, and writes the sum to all slots: one pass over memory, no message. Across
nodes only that slice travels, from rank i of a node to rank i of the others, while the next piece is added up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.cluster.exchange import MpiExchange
from ryzen_mpi.comm.across import Travelling, as_bytes, exchange
from ryzen_mpi.comm.dtypes import reduction
from ryzen_mpi.comm.plain import PlainRegion, slice_of, tensor_at
from ryzen_mpi.comm.region import PAGE, Region, open_region
from ryzen_mpi.comm.waiting import Patience

PIECE_BYTES = 8 << 20
"""Of a slot that crosses the network at a time, while the next is added up."""


@dataclass(frozen=True)
class Locality:
    """How the ranks of a communicator lie on nodes.

    Attributes:
        comm: all ranks.
        node: those on this node.
        across: rank i of every node for this rank's i; None where there is one node.
        nodes: number of nodes.
        places: (node, rank on it) of every rank.
        even: whether all nodes have the same number of ranks.
    """

    comm: Any
    node: Any
    across: Any
    nodes: int
    places: tuple[tuple[int, int], ...]
    even: bool

    @classmethod
    def discover(cls, comm: Any, ranks_per_node: int | None = None) -> Locality:
        """Asks MPI which ranks share memory. Collective. `ranks_per_node` pretends smaller nodes, for tests."""
        from mpi4py import MPI

        if ranks_per_node is None:
            node = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
        else:
            node = comm.Split(comm.rank // ranks_per_node, key=comm.rank)
        exchange = MpiExchange(comm)
        firsts = exchange.allgather(MpiExchange(node).broadcast(comm.rank))
        nodes = sorted(set(firsts))
        places = tuple((nodes.index(first), firsts[:rank].count(first)) for rank, first in enumerate(firsts))
        even = len({firsts.count(first) for first in nodes}) == 1
        across = comm.Split(node.rank, key=comm.rank) if len(nodes) > 1 else None
        return cls(comm, node, across, len(nodes), places, even)

    @property
    def shared(self) -> bool:
        """Whether ranks share a node anywhere: asked on all ranks, also by one that is alone on its own."""
        return len(self.places) > self.nodes

    def close(self) -> None:
        """Frees the communicators made here. Collective."""
        self.node.Free()
        if self.across is not None:
            self.across.Free()


class Arena:
    """Shared memory of `slot_bytes` for every rank of the node.

    All ranks make the same arena and ask for the same tensors in the same order; an arena is used by one thread at a
    time. Errors: Absent or the kernel's PeerError (`region.PEER_ERRORS`) when a rank does not come in `timeout_s`, has
    ended, or calls something else; the arena is of no use afterwards. UserError where memory is short.

    Args:
        locality: whose arena; see `Locality.discover`.
        slot_bytes: room of one rank; every tensor takes a multiple of a page.
        timeout_s: seconds a collective waits for another rank.
        plain: work without the compiled kernel (slower, the same bits).
    """

    def __init__(self, locality: Locality, slot_bytes: int, timeout_s: float, plain: bool = False) -> None:
        self.locality, self.timeout_s = locality, timeout_s
        node = locality.places[locality.comm.rank][0]
        ranks = [rank for rank, (where, _) in enumerate(locality.places) if where == node]
        self.region: Region = open_region(locality.node, slot_bytes, timeout_s, plain, ranks)
        self.engine = self.region.engine
        self.plain = isinstance(self.engine, PlainRegion)
        self.patience = Patience(timeout_s, {})
        self.base = self.region.base[locality.node.rank]
        self.used = 0

    def empty(self, count: int, dtype: torch.dtype) -> Tensor:
        """[count] elements of the next free memory, zero. Collective.

        Every slice is first touched by the rank that will add it up, so that it lies on that rank's NUMA domain.
        """
        size = count * dtype.itemsize
        if self.used + size > self.region.payload:
            raise ValueError(
                f"the arena has {self.region.payload - self.used} bytes left in a slot, not the {size} of "
                f"{count} elements of {dtype}"
            )
        offset, self.used = self.used, -(-(self.used + size) // PAGE) * PAGE
        mine = self.slice_of(count, dtype)
        for base in self.region.base:
            tensor_at(base + offset + mine.start * dtype.itemsize, mine.stop - mine.start, dtype).zero_()
        self.engine.barrier()
        return tensor_at(self.base + offset, count, dtype)

    def slice_of(self, count: int, dtype: torch.dtype) -> slice:
        """The elements of a tensor of `count` that this rank of the node adds up. Local."""
        return slice_of(count, dtype.itemsize, self.locality.node.rank, self.locality.node.size)

    def shard_of(self, count: int, dtype: torch.dtype) -> slice:
        """The elements that are this rank's after `reduce_scatter` and before `all_gather`. Local."""
        whole = self.slice_of(count, dtype)
        if self.locality.across is None:
            return whole
        across = self.locality.across
        part = slice_of(whole.stop - whole.start, dtype.itemsize, across.rank, across.size)
        return slice(whole.start + part.start, whole.start + part.stop)

    def holds(self, tensor: Tensor) -> bool:
        """Whether all of `tensor` lies in this rank's slot, in one stretch. Local."""
        offset = tensor.data_ptr() - self.base
        size = tensor.numel() * tensor.element_size()
        return 0 <= offset and offset + size <= self.region.payload and tensor.is_contiguous()

    def all_reduce(self, tensor: Tensor, op: str = "sum") -> None:
        """The sum (product, min, ...) over all ranks, in place. Collective."""
        how = reduction(tensor.dtype, op, self.locality.comm.size)
        offset, count = self._place(tensor)
        tensor = tensor.view(-1)
        if self.locality.across is None:
            self.engine.all_reduce(offset, count, *how)
        elif self.locality.even:
            self._all_reduce_nodes(tensor, how)
        else:
            self._all_reduce_uneven(tensor, how, lambda whole: self._exchange(whole, how))

    def all_reduce_by(self, tensor: Tensor, across: Callable[[Tensor], None]) -> None:
        """The sum over all ranks, in place, where `across` gets a slice [n] and sums it over the nodes. Collective."""
        how = reduction(tensor.dtype, "sum", self.locality.comm.size)
        offset, count = self._place(tensor)
        tensor = tensor.view(-1)
        if self.locality.across is None:
            self.engine.all_reduce(offset, count, *how)
        elif self.locality.even:
            self.engine.reduce_scatter(offset, count, *how)
            across(tensor[self.slice_of(count, tensor.dtype)])
            self.engine.all_gather(offset, count, tensor.element_size())
        else:
            self._all_reduce_uneven(tensor, how, across)

    def reduce_scatter(self, tensor: Tensor, op: str = "sum") -> Tensor:
        """The sum over all ranks, of this rank's shard only: `tensor[shard_of(...)]`, returned. Collective.

        The rest of `tensor` holds no meaningful values afterwards.
        """
        how = reduction(tensor.dtype, op, self.locality.comm.size)
        self._reduce_scatter_node(tensor, how)
        mine = self.slice_of(tensor.numel(), tensor.dtype)
        if self.locality.across is None:
            return tensor[mine]
        self._need_even("reduce_scatter")
        self._exchange(tensor[mine], how)
        return tensor[self.shard_of(tensor.numel(), tensor.dtype)]

    def all_gather(self, tensor: Tensor) -> None:
        """Every rank's shard (`shard_of`) into the tensors of all. Collective."""
        offset, count = self._place(tensor)
        if self.locality.across is not None:
            self._need_even("all_gather")
            self._gather_across(tensor.view(-1))
        self.engine.all_gather(offset, count, tensor.element_size())

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """The tensor of rank `root` (of `locality.comm`) into those of all. Collective."""
        offset, count = self._place(tensor)
        size = count * tensor.element_size()
        root_node, root_local = self.locality.places[root]
        here = self.locality.places[self.locality.comm.rank][0] == root_node
        if here:
            self.engine.broadcast(offset, size, root_local)
        if self.locality.across is not None:
            if self.locality.node.rank == 0:
                self.patience.finish(self.locality.across.Ibcast(as_bytes(tensor), root=root_node))
            if not here:
                self.engine.broadcast(offset, size, 0)

    def barrier(self) -> None:
        """Returns when all ranks have called it. Collective."""
        self.engine.barrier()
        if self.locality.across is not None:
            self.patience.finish(self.locality.across.Ibarrier())
            self.engine.barrier()

    def set_timeout(self, seconds: float) -> None:
        """Seconds a collective waits for another rank from now on. Local."""
        self.timeout_s = self.patience.timeout_s = seconds
        self.engine.set_timeout(seconds)

    def close(self) -> None:
        """Gives the memory back. Collective; tensors of the arena must not be touched afterwards."""
        self.region.close()

    def _place(self, tensor: Tensor) -> tuple[int, int]:
        count = tensor.numel()
        if not count:  # lies nowhere
            return 0, 0
        if not self.holds(tensor):
            raise ValueError("the tensor does not lie in this arena, or not in one stretch")
        return tensor.data_ptr() - self.base, count

    def _need_even(self, name: str) -> None:
        if not self.locality.even:
            raise ValueError(f"{name} over several nodes needs the same number of ranks on each")

    def _reduce_scatter_node(self, tensor: Tensor, how: tuple[int, int, int]) -> None:
        offset, count = self._place(tensor)
        # a division belongs after the last addition, which is then the other nodes'
        divisor = how[2] if self.locality.across is None else 1
        self.engine.reduce_scatter(offset, count, *how[:2], divisor)

    def _all_reduce_nodes(self, tensor: Tensor, how: tuple[int, int, int]) -> None:
        """Three pieces at a time: one is added up here, one travels as parts, one as sums."""
        pieces = tensor.split(max(1, PIECE_BYTES // tensor.element_size()))
        travelling: list[Travelling] = []
        for index in range(len(pieces) + 2):  # all ranks take these steps in this order
            if index < len(pieces):
                self._reduce_scatter_node(pieces[index], how)
            if 1 <= index <= len(pieces):
                travelling[index - 1].advance()
            if index < len(pieces):
                mine = pieces[index][self.slice_of(pieces[index].numel(), tensor.dtype)]
                travelling.append(Travelling(exchange(mine, self.locality.across, how, self.plain), self.patience))
            if index >= 2:
                travelling[index - 2].finish()
                offset, count = self._place(pieces[index - 2])
                self.engine.all_gather(offset, count, tensor.element_size())

    def _exchange(self, slice_of_node: Tensor, how: tuple[int, int, int]) -> None:
        Travelling(exchange(slice_of_node, self.locality.across, how, self.plain), self.patience).finish()

    def _all_reduce_uneven(self, tensor: Tensor, how: tuple[int, int, int], across: Callable[[Tensor], None]) -> None:
        """Nodes with different numbers of ranks cut differently: their first ranks speak for them."""
        offset, count = self._place(tensor)
        self.engine.all_reduce(offset, count, *how[:2], 1)
        if self.locality.node.rank == 0:
            across(tensor)
        self.engine.broadcast(offset, count * tensor.element_size(), 0)

    def _gather_across(self, tensor: Tensor) -> None:
        across, item = self.locality.across, tensor.element_size()
        mine = self.slice_of(tensor.numel(), tensor.dtype)
        parts = [slice_of(mine.stop - mine.start, item, rank, across.size) for rank in range(across.size)]
        sizes = [(part.stop - part.start) * item for part in parts]
        starts = [part.start * item for part in parts]
        whole = tensor[mine]
        own = whole[parts[across.rank]].clone()
        self.patience.finish(across.Iallgatherv(as_bytes(own), (as_bytes(whole), (sizes, starts))))


def shared_memory(group: dist.ProcessGroup | None) -> Callable[[int, torch.dtype], Tensor] | None:
    """What gives [count] zeroed elements in memory the ranks of a node share, reduced by `group` where they lie.

    None where there is nothing to share: one rank, or a group of another backend. Local; what it returns is
    collective, and raises UserError where there is not enough shared memory.
    """
    if not dist.is_initialized():
        return None
    group = group or dist.group.WORLD
    make = getattr(group, "arena", None)
    if make is None or group.size() == 1:
        return None

    def memory(count: int, dtype: torch.dtype) -> Tensor:
        return make(count * dtype.itemsize).empty(count, dtype)

    return memory
