"""Point-to-point messages of a backend, as the benchmarks need them: prepared once, sent many times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ryzen_mpi.bench.options import DataType
from ryzen_mpi.bench.prepared import Unavailable

REDUCES = ("all_reduce", "reduce_scatter")
"""Operations that do arithmetic; the others only move bytes."""


def mpi_type(datatype: DataType, operation: str) -> Any:
    """MPI's datatype for the elements. Local. Raises Unavailable where MPI would have to add what it has no type for.

    What is only moved travels as bytes then.
    """
    from mpi4py import MPI

    if datatype.mpi is not None:
        return getattr(MPI, datatype.mpi)
    if operation in REDUCES:
        raise Unavailable(f"MPI has no {datatype.name}: it cannot add what it has no type for")
    return MPI.BYTE


class Messages(Protocol):
    """Messages between two ranks. `peer` is a rank of all ranks; the same tag pairs a send with its receive."""

    def message(self, tensor: Tensor) -> Any:
        """The memory of `tensor` as the methods below want it. Local."""

    def send(self, message: Any, peer: int) -> None: ...
    def receive(self, message: Any, peer: int) -> None: ...
    def start_send(self, message: Any, peer: int, tag: int = 0) -> Any: ...
    def start_receive(self, message: Any, peer: int, tag: int = 0) -> Any: ...
    def finish(self, requests: Sequence[Any]) -> None: ...


class RawMessages:
    """mpi4py's."""

    def __init__(self, comm: Any, datatype: DataType) -> None:
        from mpi4py import MPI

        self.comm, self.kind, self._wait_all = comm, mpi_type(datatype, "message"), MPI.Request.Waitall

    def message(self, tensor: Tensor) -> Any:
        return [tensor.view(torch.uint8).numpy(), self.kind]

    def send(self, message: Any, peer: int) -> None:
        self.comm.Send(message, peer)

    def receive(self, message: Any, peer: int) -> None:
        self.comm.Recv(message, peer)

    def start_send(self, message: Any, peer: int, tag: int = 0) -> Any:
        return self.comm.Isend(message, peer, tag)

    def start_receive(self, message: Any, peer: int, tag: int = 0) -> Any:
        return self.comm.Irecv(message, peer, tag)

    def finish(self, requests: Sequence[Any]) -> None:
        self._wait_all(requests)


class DistMessages:
    """torch.distributed's."""

    def __init__(self, group: Any) -> None:
        import torch.distributed as dist

        self.group, self.dist = group, dist

    def message(self, tensor: Tensor) -> Any:
        return tensor

    def send(self, message: Any, peer: int) -> None:
        self.dist.send(message, peer, self.group)

    def receive(self, message: Any, peer: int) -> None:
        self.dist.recv(message, peer, self.group)

    def start_send(self, message: Any, peer: int, tag: int = 0) -> Any:
        return self.dist.isend(message, peer, self.group, tag)

    def start_receive(self, message: Any, peer: int, tag: int = 0) -> Any:
        return self.dist.irecv(message, peer, self.group, tag)

    def finish(self, requests: Sequence[Any]) -> None:
        for request in requests:
            request.wait()
