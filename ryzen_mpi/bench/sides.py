"""The four backends behind one protocol: MPI through mpi4py, Gloo and ours through torch.distributed, and arenas."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import torch

from ryzen_mpi.bench.messages import DistMessages, Messages, RawMessages, mpi_type
from ryzen_mpi.bench.options import DataType
from ryzen_mpi.bench.prepared import Prepared, Unavailable, shape, shares, vectors
from ryzen_mpi.cluster.world import World
from ryzen_mpi.comm.arena import Arena, Locality
from ryzen_mpi.comm.region import PAGE
from ryzen_mpi.errors import UserError

TIMEOUT_S = 120.0
"""A rank that waits longer for another takes it for lost."""


class Side(Protocol):
    """One backend. Collective: all ranks call the same methods in the same order."""

    def prepare(self, operation: str, count: int, datatype: DataType, buffers: int) -> Prepared:
        """`operation` on `buffers` sets of `count` elements. Raises Unavailable, on all ranks alike."""

    def messages(self, datatype: DataType) -> Messages:
        """Point-to-point. Raises Unavailable where the backend has none."""


class Raw:
    """mpi4py on the memory of tensors; in place where MPI has it, which is what MPI does quickest.

    All-to-all has two buffers: in place it is another, slower algorithm, and PyTorch's has two.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm

    def messages(self, datatype: DataType) -> Messages:
        return RawMessages(self.comm, datatype)

    def prepare(self, operation: str, count: int, datatype: DataType, buffers: int) -> Prepared:
        from mpi4py import MPI

        comm, kind, ranks = self.comm, mpi_type(datatype, operation), self.comm.size
        if operation == "barrier":
            return Prepared([comm.Barrier])
        dtype, sizes = getattr(torch, datatype.torch), shape(operation, count, datatype.size, ranks)
        out = vectors(sizes.outputs, dtype, buffers)
        # whole buffers: mpi4py takes a count as one rank's, and a total count would corrupt memory
        specs = [[tensor.view(torch.uint8).numpy(), kind] for tensor in out]
        if operation == "all_reduce":
            return Prepared([partial(comm.Allreduce, MPI.IN_PLACE, spec) for spec in specs], out, out)
        if operation == "broadcast":
            return Prepared([partial(comm.Bcast, spec, 0) for spec in specs], out, out)
        if operation == "all_gather":
            start = comm.rank * count
            calls = [partial(comm.Allgather, MPI.IN_PLACE, spec) for spec in specs]
            return Prepared(calls, [tensor[start : start + count] for tensor in out], out, input_start=start)
        if operation == "reduce_scatter":
            parts = shares(count, ranks)
            calls = [partial(comm.Reduce_scatter, MPI.IN_PLACE, spec, parts) for spec in specs]
            mine = [tensor[: parts[comm.rank]] for tensor in out]
            return Prepared(calls, out, mine, output_start=sum(parts[: comm.rank]))
        if operation == "all_to_all":
            source = vectors(sizes.inputs, dtype, buffers)
            pairs = zip(source, specs, strict=True)
            calls = [partial(comm.Alltoall, [tensor.view(torch.uint8).numpy(), kind], spec) for tensor, spec in pairs]
            return Prepared(calls, source, out)
        raise Unavailable(f"mpi4py has no {operation}")


class Dist:
    """torch.distributed's own functions on a group of some backend."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def messages(self, datatype: DataType) -> Messages:
        return DistMessages(self.group)

    def prepare(self, operation: str, count: int, datatype: DataType, buffers: int) -> Prepared:
        import torch.distributed as dist

        group, ranks, rank = self.group, dist.get_world_size(self.group), dist.get_rank(self.group)
        if operation == "barrier":
            return Prepared([partial(dist.barrier, group)])
        dtype, sizes = getattr(torch, datatype.torch), shape(operation, count, datatype.size, ranks)
        if operation == "reduce_scatter" and count % ranks:
            even = f"-m {ranks * datatype.size}:MAX goes through sizes that divide"
            raise Unavailable(f"torch.distributed cuts evenly only: {count} elements over {ranks} ranks; {even}")
        source = vectors(sizes.inputs, dtype, buffers)
        if operation == "all_reduce":
            return Prepared([partial(dist.all_reduce, tensor, group=group) for tensor in source], source, source)
        if operation == "broadcast":
            return Prepared([partial(dist.broadcast, tensor, 0, group=group) for tensor in source], source, source)
        call: Callable[..., Any] = {
            "all_gather": dist.all_gather_single,
            "reduce_scatter": dist.reduce_scatter_single,
            "all_to_all": dist.all_to_all_single,
        }[operation]
        parts = operation == "reduce_scatter"
        outputs = count // ranks if parts else sizes.outputs
        out = vectors(outputs, dtype, buffers)
        calls = [partial(call, target, tensor, group=group) for target, tensor in zip(out, source, strict=True)]
        return Prepared(calls, source, out, input_start=rank * count, output_start=rank * outputs if parts else 0)


class Arenas:
    """Collectives on tensors that lie in memory the ranks of a node share; a new arena for every size."""

    def __init__(self, locality: Locality) -> None:
        self.locality = locality

    def messages(self, datatype: DataType) -> Messages:
        raise Unavailable("an arena has no point-to-point: its ranks read one another's memory")

    def prepare(self, operation: str, count: int, datatype: DataType, buffers: int) -> Prepared:
        ranks, dtype = self.locality.comm.size, getattr(torch, datatype.torch)
        if operation == "all_to_all":
            raise Unavailable("an arena has no all-to-all")
        if operation in ("reduce_scatter", "all_gather") and not self.locality.even:
            raise Unavailable(f"{operation} over nodes with different numbers of ranks")
        whole = shape(operation, count, datatype.size, ranks).outputs
        arena = Arena(self.locality, max(1, buffers * -(-whole * dtype.itemsize // PAGE)) * PAGE, TIMEOUT_S)
        if operation == "barrier":
            return Prepared([arena.barrier], release=arena.close)
        tensors = [arena.empty(whole, dtype) for _ in range(buffers)]
        mine = arena.shard_of(whole, dtype)
        parts = [tensor[mine] for tensor in tensors]
        call = getattr(arena, operation)
        calls = [partial(call, tensor) for tensor in tensors]
        prepared = Prepared(calls, tensors, tensors, release=arena.close)
        if operation == "all_gather":  # here a rank's part is what it would reduce, in whole cache lines
            prepared.inputs, prepared.input_start = parts, mine.start
        if operation == "reduce_scatter":
            prepared.outputs, prepared.output_start = parts, mine.start
        return prepared

    def prepare_reading(self, count: int, datatype: DataType, buffers: int) -> Prepared:
        """Reading alone of what a reduce-scatter has to read: this rank's slice in every rank's slot. Collective.

        memchr for a byte that is not there reads all and writes nothing, as quickly as the C library can.
        """
        dtype, node = getattr(torch, datatype.torch), self.locality.node
        arena = Arena(self.locality, buffers * -(-count * dtype.itemsize // PAGE) * PAGE, TIMEOUT_S)
        tensors = [arena.empty(count, dtype) for _ in range(buffers)]
        mine = arena.slice_of(count, dtype)
        size = (mine.stop - mine.start) * dtype.itemsize
        memchr = ctypes.CDLL(None).memchr
        memchr.argtypes, memchr.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p

        def read(offset: int) -> None:
            for rank in range(node.size):
                memchr(arena.region.base[rank] + offset, 1, size)

        starts = [tensor.data_ptr() - arena.base + mine.start * dtype.itemsize for tensor in tensors]
        return Prepared([partial(read, start) for start in starts], tensors, release=arena.close)


@contextmanager
def open_sides(world: World, backends: tuple[str, ...]) -> Iterator[dict[str, Side | Unavailable]]:
    """The backends by name, each ready or with the reason why it is not, for as long as the block lasts. Collective.

    Raises UserError where there is no MPI.
    """
    if world.comm is None:
        raise UserError("the benchmarks need MPI", f"start with mpirun; this was started by {world.launcher}")
    comm = world.comm.Dup()  # what PyTorch's groups do meanwhile cannot meet our messages
    locality = Locality.discover(comm) if "arena" in backends else None
    sides: dict[str, Side | Unavailable] = {}
    with _groups(world, [name for name in backends if name in ("gloo", "mpi")]) as groups:
        for name in backends:
            if name == "raw":
                sides[name] = Raw(comm)
            elif name == "arena":
                sides[name] = Arenas(locality)
            else:
                sides[name] = groups[name] if isinstance(groups[name], Unavailable) else Dist(groups[name])
        yield sides
    if locality is not None:
        locality.close()
    comm.Free()


@contextmanager
def _groups(world: World, names: list[str]) -> Iterator[dict[str, Any]]:
    """A torch.distributed group for each of `names`. Collective."""
    if not names:
        yield {}
        return
    import torch.distributed as dist

    from ryzen_mpi.comm.rendezvous import process_group
    from ryzen_mpi.config import Distributed

    with process_group(world, Distributed(backend="gloo", timeout_s=TIMEOUT_S)):
        found: dict[str, Any] = {}
        for name in names:
            if name == "mpi" and not hasattr(dist.Backend, "RYZEN"):
                found[name] = Unavailable("the backend `ryzen` is not registered with this PyTorch")
                continue
            backend = {"mpi": "ryzen"}.get(name, name)
            found[name] = dist.new_group(backend=backend, timeout=timedelta(seconds=TIMEOUT_S))
        yield found
