"""Every collective on contiguous CPU tensors over one communicator, each by the way that is quickest for its size.

Blocking, called by one thread at a time; group.py makes torch.distributed's work objects of them. Three ways: tensors
of an arena by loads and stores where they lie; others staged through memory the ranks of the node share; or MPI.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ryzen_mpi.comm.across import Travelling, add_up, as_bytes, exchange, in_place
from ryzen_mpi.comm.arena import Arena, Locality
from ryzen_mpi.comm.dtypes import reduction
from ryzen_mpi.comm.region import Region, open_region, watched
from ryzen_mpi.comm.tuning import DEFAULT, STAGED, Table
from ryzen_mpi.comm.waiting import Patience

STAGE_BYTES = 512 << 10
"""Of a rank: two halves that stay in a core's second-level cache while a block passes through them."""
NODES_STAGE_BYTES = 16 << 20
"""Of a rank where there are several nodes: two pieces, so that one can travel while the other is added up."""
TREE_BYTES = 128 << 10
"""Up to here MPI sums between nodes that have a rank each. Open MPI's nonblocking all-reduce in place is a tree, which
sends everything twice; in parts, 4 MiB take half the time and less (benchmarks/between_nodes.py)."""


class Collectives:
    """What the ranks of `comm` can do together.

    All methods are collective. They raise Absent or the kernel's PeerError (`region.PEER_ERRORS`) when a rank does not
    come in time or has ended; TypeError for a reduction that has no meaning.

    Args:
        comm: an mpi4py communicator of its own.
        timeout_s: seconds a collective waits for other ranks.
        table: which way which size takes.
    """

    def __init__(self, comm: Any, timeout_s: float, table: Table = DEFAULT) -> None:
        self.comm, self.rank, self.size, self.table = comm, comm.rank, comm.size, table
        self.patience = Patience(timeout_s)
        self.patience.finish(comm.Ibarrier())  # what follows blocks: all must be here
        self.locality = Locality.discover(comm)
        self.patience.pids = self._pids()
        self.arenas: list[Arena] = []
        self._region: Region | None = None
        self._stage: tuple[Arena, Tensor] | None = None

    @property
    def one_node(self) -> bool:
        return self.locality.across is None

    def set_timeout(self, seconds: float) -> None:
        """Seconds a collective waits from now on. Local."""
        if seconds == self.patience.timeout_s:
            return
        self.patience.timeout_s = seconds
        if self._region is not None:
            self._region.engine.set_timeout(seconds)
        for arena in self._all_arenas():
            arena.set_timeout(seconds)

    def give_up(self) -> None:
        """Tells the ranks of this node not to wait for this one. Local."""
        if self._region is not None:
            self._region.engine.give_up()
        for arena in self._all_arenas():
            arena.engine.give_up()

    def close(self) -> None:
        """Gives shared memory and communicators back. Collective."""
        self.patience.finish(self.comm.Ibarrier())
        for arena in self._all_arenas():
            arena.close()
        if self._region is not None:
            self._region.close()
        self.locality.close()
        self.comm.Free()

    # --- reductions ---------------------------------------------------------------------------------------------

    def all_reduce(self, data: Tensor, op: str) -> None:
        """Reduces `data` over all ranks, in place."""
        how = reduction(data.dtype, op, self.size)
        if self.size == 1 or not data.numel():
            return
        if self.arenas and (arena := self.arena_of(data)) is not None:
            arena.all_reduce(data, op)
        elif self._staged("all_reduce", data.numel() * data.element_size()):
            if self.one_node:
                address = data.data_ptr()
                self._engine().staged_all_reduce(address, address, data.numel(), *how)
            else:
                self._stage_nodes(data, op)
        else:
            self._all_reduce_mpi(data, op, how)

    def reduce(self, data: Tensor, root: int, op: str) -> None:
        """Reduces into rank `root`'s `data`; the others' stays as it is."""
        result = data if self.rank == root else data.clone()
        self.all_reduce(result, op)

    def reduce_scatter(self, output: Tensor, data: Tensor, op: str) -> None:
        """`output` [n] is the reduction over ranks of their `data` [size, n] in row `rank`."""
        how = reduction(data.dtype, op, self.size)
        _same_size("reduce_scatter", data.numel(), output.numel() * self.size)
        _same_dtype("reduce_scatter", output, data)
        if not output.numel():
            return
        if self.one_node and self.size > 1 and self._staged("reduce_scatter", _bytes(output)):
            self._engine().staged_reduce_scatter(data.data_ptr(), output.data_ptr(), output.numel(), *how)
            return
        rows = torch.empty((self.size, output.numel()), dtype=data.dtype)
        self._wait(self.comm.Ialltoall(as_bytes(data), as_bytes(rows)))
        add_up(list(rows), output, how)

    # --- moves ------------------------------------------------------------------------------------------------------

    def broadcast(self, data: Tensor, root: int) -> None:
        """Rank `root`'s `data` into everyone's."""
        if self.size == 1 or not data.numel():
            return
        if self.arenas and (arena := self.arena_of(data)) is not None:
            arena.broadcast(data, root)
        elif self.one_node and self._staged("broadcast", _bytes(data)):
            self._engine().staged_broadcast(data.data_ptr(), _bytes(data), root)
        else:
            self._wait(self.comm.Ibcast(as_bytes(data), root=root))

    def all_gather(self, output: Tensor, data: Tensor) -> None:
        """`output` [size, n] is every rank's `data` [n]."""
        _same_size("all_gather", output.numel(), data.numel() * self.size)
        _same_dtype("all_gather", output, data)
        if not data.numel():
            return
        if self.one_node and self.size > 1 and self._staged("all_gather", _bytes(data)):
            self._engine().staged_all_gather(data.data_ptr(), output.data_ptr(), _bytes(data))
        else:
            # part of the output already: MPI forbids the same memory twice
            there = data.data_ptr() == output.data_ptr() + self.rank * _bytes(data)
            self._wait(self.comm.Iallgather(in_place() if there else as_bytes(data), as_bytes(output)))

    def gather(self, output: Tensor | None, data: Tensor, root: int) -> None:
        """`output` [size, n] on rank `root` is every rank's `data` [n]."""
        room = as_bytes(output) if self.rank == root else None
        self._wait(self.comm.Igather(as_bytes(data), room, root=root))

    def scatter(self, output: Tensor, data: Tensor | None, root: int) -> None:
        """`output` [n] is row `rank` of rank `root`'s `data` [size, n]."""
        if data is not None:
            _same_size("scatter", data.numel(), output.numel() * self.size)
        given = as_bytes(data) if self.rank == root else None
        self._wait(self.comm.Iscatter(given, as_bytes(output), root=root))

    def all_to_all(self, output: Tensor, data: Tensor) -> None:
        """Row r of `output` [size, n] is what rank r had in row `rank` of `data` [size, n]."""
        _same_size("all_to_all", output.numel(), data.numel())
        if data.numel() % self.size:
            raise ValueError(f"all_to_all: {data.numel()} elements cannot be split equally among {self.size} ranks")
        part = _bytes(data) // self.size
        if not part:
            return
        if self.one_node and self.size > 1 and self._staged("all_to_all", part):
            self._engine().staged_all_to_all(data.data_ptr(), output.data_ptr(), part)
        else:
            self._wait(self.comm.Ialltoall(as_bytes(data), as_bytes(output)))

    def all_to_all_uneven(self, output: Tensor, data: Tensor, received: list[int], sent: list[int]) -> None:
        """As all_to_all, with `sent[r]` elements to and `received[r]` elements from rank r, one after the other."""
        _same_size("all_to_all", sum(received), output.numel())
        _same_size("all_to_all", sum(sent), data.numel())
        item = data.element_size()
        given = (as_bytes(data), [count * item for count in sent])
        self._wait(self.comm.Ialltoallv(given, (as_bytes(output), [count * item for count in received])))

    def barrier(self) -> None:
        """Returns when all ranks have called it."""
        if self.size > 1 and self.one_node:
            self._engine().barrier()
        elif self.size > 1:
            self._wait(self.comm.Ibarrier())

    # --- ways -------------------------------------------------------------------------------------------------------

    def arena_of(self, tensor: Tensor) -> Arena | None:
        """The arena that `tensor` lies in, or None. Local."""
        return next((arena for arena in self.arenas if arena.holds(tensor)), None)

    def _all_arenas(self) -> list[Arena]:
        """Those that were asked for, and the one that ordinary tensors pass through."""
        return self.arenas if self._stage is None else [*self.arenas, self._stage[0]]

    def _staged(self, collective: str, size: int) -> bool:
        return self.locality.shared and self.table.way(collective, size) == STAGED

    def _engine(self):
        if self._region is None:
            self._wait(self.comm.Ibarrier())  # opening blocks: all must be here
            self._region = open_region(self.comm, STAGE_BYTES, self.patience.timeout_s)
        return self._region.engine

    def _stage_nodes(self, data: Tensor, op: str) -> None:
        if self._stage is None:
            self._wait(self.comm.Ibarrier())
            arena = Arena(self.locality, NODES_STAGE_BYTES, self.patience.timeout_s)
            self._stage = arena, arena.empty(NODES_STAGE_BYTES, torch.uint8)
        arena, room = self._stage
        room = room.view(data.dtype)
        for piece in data.view(-1).split(room.numel()):
            staged = room[: piece.numel()].copy_(piece)
            arena.all_reduce(staged, op)
            piece.copy_(staged)

    def _all_reduce_mpi(self, data: Tensor, op: str, how: tuple[int, int, int]) -> None:
        dtype, operation = _native(data.dtype, op)
        if operation is None or (not self.locality.shared and _bytes(data) > TREE_BYTES):
            Travelling(exchange(data.view(-1), self.comm, how), self.patience).finish()
            return
        from mpi4py import MPI

        self._wait(self.comm.Iallreduce(MPI.IN_PLACE, [as_bytes(data), data.numel(), dtype], op=operation))
        if op == "avg":
            data.detach().div_(self.size, rounding_mode=None if data.is_floating_point() else "trunc")

    def _wait(self, request: Any) -> None:
        self.patience.finish(request)

    def _pids(self) -> dict[int, int]:
        """Processes on this node by rank of `comm`."""
        pids, node = watched(self.locality.node), self.locality.places[self.rank][0]
        ranks = [rank for rank, (where, _) in enumerate(self.locality.places) if where == node]
        return {ranks[local]: pid for local, pid in pids.items()}


def _native(dtype: torch.dtype, op: str) -> tuple[Any, Any]:
    """MPI's own type and operation, or (None, None): it has no 16-bit floats and no NaN in its MIN and MAX. Local."""
    from mpi4py import MPI

    types = {
        torch.float32: MPI.FLOAT,
        torch.float64: MPI.DOUBLE,
        torch.uint8: MPI.UINT8_T,
        torch.int8: MPI.INT8_T,
        torch.int16: MPI.INT16_T,
        torch.int32: MPI.INT32_T,
        torch.int64: MPI.INT64_T,
    }
    operations = {"sum": MPI.SUM, "avg": MPI.SUM, "product": MPI.PROD}
    operations |= {"band": MPI.BAND, "bor": MPI.BOR, "bxor": MPI.BXOR}
    if not dtype.is_floating_point:
        operations |= {"min": MPI.MIN, "max": MPI.MAX}
    if dtype not in types or op not in operations:
        return None, None
    return types[dtype], operations[op]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _same_size(name: str, given: int, wanted: int) -> None:
    if given != wanted:
        raise ValueError(f"{name}: {given} elements given where {wanted} belong")


def _same_dtype(name: str, output: Tensor, data: Tensor) -> None:
    if output.dtype != data.dtype:  # the memory behind the shorter one would be overwritten
        raise TypeError(f"{name}: {data.dtype} cannot be received as {output.dtype}")
