"""Messages between two ranks of a process group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.comm.across import as_bytes
from ryzen_mpi.comm.collectives import Collectives
from ryzen_mpi.comm.failure import Failures
from ryzen_mpi.comm.membership import Membership
from ryzen_mpi.comm.region import PEER_ERRORS
from ryzen_mpi.comm.tensors import back, dense, listed
from ryzen_mpi.comm.work import Message


class Messages(Membership):
    """A process group that can send and receive."""

    def __init__(self, collectives: Collectives, failures: Failures, store: dist.Store) -> None:
        super().__init__(collectives, failures, store)
        self._sending: list[Message] = []

    def send(self, tensors: Any, dst: int, tag: int) -> dist.Work:
        (tensor,) = listed(tensors)
        data = dense(tensor)
        self.failures.refuse_broken()
        request = self.collectives.comm.Isend(as_bytes(data), dest=dst, tag=tag)
        work = Message(request, data, self._until("send", tensor, dst, tag), lambda status: None)
        self._sending = [older for older in self._sending if not older.is_completed()]
        self._sending.append(work)  # its memory must not go before it has gone
        return self._noted(work)

    def recv(self, tensors: Any, src: int, tag: int) -> dist.Work:
        (tensor,) = listed(tensors)
        data = dense(tensor)
        self.failures.refuse_broken()
        size = data.numel() * data.element_size()

        def landed(status: Any) -> None:
            if status.count != size:
                raise self.failures.of_message(
                    "recv", tensor, status.source, tag, f"{status.count} bytes came where {size} were expected"
                )
            back(data, tensor)

        request = self.collectives.comm.Irecv(as_bytes(data), source=src, tag=tag)
        return self._noted(Message(request, data, self._until("recv", tensor, src, tag), landed))

    def recv_anysource(self, tensors: Any, tag: int) -> dist.Work:
        from mpi4py import MPI

        return self.recv(tensors, MPI.ANY_SOURCE, tag)

    def _until(self, name: str, tensor: Tensor, peer: int, tag: int):
        def until(done: Callable[[], bool], limit: float | None) -> None:
            patience = self.collectives.patience
            limit = self._timeout_s if limit is None else limit
            try:
                patience.until(done, limit)
            except PEER_ERRORS as error:
                raise self.failures.of_message(name, tensor, peer, tag, error, limit) from None
            except self.failures.mpi_errors as error:
                raise self.failures.of_message(name, tensor, peer, tag, str(error)) from None

        return until

    def _noted(self, work: dist.Work) -> dist.Work:
        if self._together is not None:
            self._together.append(work)
        return work
