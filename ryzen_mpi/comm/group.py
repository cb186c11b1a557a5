"""The process group: torch.distributed's calls, done by collectives.py over MPI and shared memory.

Every method is here, none falls through to C++: one that did could deadlock on the GIL. What nobody waits for goes to
the line; what is waited for is done by the caller's own thread, which saves two thread switches, unless something is in
line before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.comm.across import as_bytes
from ryzen_mpi.comm.arena import Arena
from ryzen_mpi.comm.collectives import Collectives
from ryzen_mpi.comm.dtypes import OP_NAMES
from ryzen_mpi.comm.failure import Failures
from ryzen_mpi.comm.region import PEER_ERRORS
from ryzen_mpi.comm.work import Finished, Line, Message, Pending

UNSET = timedelta(0)
"""PyTorch's mark for "no timeout given" is negative."""


class MpiGroup(dist.ProcessGroup):
    """A process group over an MPI communicator.

    Args:
        collectives: over a communicator of the group's own, ranks in the group's order.
        failures: makes errors out of what went wrong.
        store: the group's, for torch.
    """

    def __init__(self, collectives: Collectives, failures: Failures, store: dist.Store) -> None:
        super().__init__(collectives.rank, collectives.size)
        self.collectives, self.failures, self._store = collectives, failures, store
        self._timeout_s = collectives.patience.timeout_s
        self._line = Line(f"ryzen_mpi {failures.group}")
        self._turn = threading.RLock()
        self._name, self._description, self._sequence = failures.group, "undefined", 0
        self._together: list[dist.Work] | None = None
        self._sending: list[Message] = []

    # --- how a call is done ----------------------------------------------------------------------------------

    def _do(self, name: str, tensors: list[Tensor], options: Any, act: Callable[[], None]) -> dist.Work:
        """Calls `act`, now or in line, with errors named. Returns the work."""
        self._sequence += 1
        timeout = getattr(options, "timeout", UNSET)
        limit = timeout.total_seconds() if timeout > UNSET else self._timeout_s
        number = self._sequence

        def named() -> None:
            self.failures.refuse_broken()
            self.collectives.set_timeout(limit)
            try:
                act()
            except PEER_ERRORS as error:
                self.collectives.give_up()
                raise self.failures.of_collective(name, number, tensors, error, limit) from None
            except (ValueError, TypeError) as error:
                raise type(error)(f"{name} on rank {self.rank()}: {error}") from None

        if not getattr(options, "asyncOp", True) and not self._line.waiting and self._turn.acquire(blocking=False):
            try:
                named()
            finally:
                self._turn.release()
            work: dist.Work = Finished(tensors)
        else:
            work = Pending(tensors)
            self._line.put(self._in_turn(named), work)
        if self._together is not None:
            self._together.append(work)
        return work

    def _in_turn(self, act: Callable[[], None]) -> Callable[[], None]:
        def waiting_its_turn() -> None:
            with self._turn:
                act()

        return waiting_its_turn

    # --- reductions ------------------------------------------------------------------------------------------

    def allreduce(self, tensors: Any, opts: Any = None) -> dist.Work:
        tensors = _listed(tensors)
        op, factor = _operation(opts)

        def act() -> None:
            for tensor in tensors:
                data = _dense(tensor)
                if factor is not None:
                    data = data * factor
                self.collectives.all_reduce(data, op)
                _back(data, tensor)

        return self._do("all_reduce", tensors, opts, act)

    def allreduce_coalesced(self, tensors: Any, opts: Any = None) -> dist.Work:
        return self.allreduce(tensors, opts)

    def reduce(self, tensors: Any, opts: Any) -> dist.Work:
        (tensor,) = _listed(tensors)
        op, factor = _operation(opts)

        def act() -> None:
            data = _dense(tensor)
            if factor is not None:
                data = data * factor
            self.collectives.reduce(data, opts.rootRank, op)
            if self.rank() == opts.rootRank:
                _back(data, tensor)

        return self._do("reduce", [tensor], opts, act)

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        op, factor = _operation(opts)

        def act() -> None:
            data, result = _dense(input), _dense(output)
            if factor is not None:
                data = data * factor
            self.collectives.reduce_scatter(result, data, op)
            _back(result, output)

        return self._do("reduce_scatter", [output], opts, act)

    def _reduce_scatter_base(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        return self.reduce_scatter_single(output, input, opts)

    def reduce_scatter(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        (output,), (parts,) = _listed(outputs), inputs
        op, factor = _operation(opts)

        def act() -> None:
            result = _dense(output)
            if all(part.numel() == output.numel() for part in parts):
                data = _joined(parts)
                self.collectives.reduce_scatter(result, data if factor is None else data * factor, op)
            else:  # parts of different length: each is a reduction to one rank
                for root, part in enumerate(parts):
                    data = _dense(part) if factor is None else part * factor
                    data = data.clone() if data is part else data
                    self.collectives.reduce(data, root, op)
                    if root == self.rank():
                        result.copy_(data.view_as(result))
            _back(result, output)

        return self._do("reduce_scatter", [output], opts, act)

    def reduce_scatter_tensor_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        works = [self.reduce_scatter_single(o, i, opts) for o, i in zip(outputs, inputs, strict=True)]
        return works[-1] if works else Finished([])

    def reduce_scatter_single_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        return self.reduce_scatter_tensor_coalesced(outputs, inputs, opts)

    # --- moves -----------------------------------------------------------------------------------------------

    def broadcast(self, tensors: Any, opts: Any) -> dist.Work:
        tensors = _listed(tensors)

        def act() -> None:
            for tensor in tensors:
                data = _dense(tensor)
                self.collectives.broadcast(data, opts.rootRank)
                if self.rank() != opts.rootRank:
                    _back(data, tensor)

        return self._do("broadcast", tensors, opts, act)

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        def act() -> None:
            result = _dense(output)
            self.collectives.all_gather(result, _dense(input))
            _back(result, output)

        return self._do("all_gather", [output], opts, act)

    def _allgather_base(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        return self.all_gather_single(output, input, opts)

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        (parts,), (tensor,) = outputs, _listed(inputs)

        def act() -> None:
            if all(part.numel() == tensor.numel() for part in parts):
                rows = torch.empty((self.size(), tensor.numel()), dtype=tensor.dtype)
                self.collectives.all_gather(rows, _dense(tensor))
                for part, row in zip(parts, rows, strict=True):
                    part.copy_(row.view_as(part))
            else:  # parts of different length: each is a broadcast from its owner
                for root, part in enumerate(parts):
                    data = _dense(tensor) if root == self.rank() else _dense(part)
                    self.collectives.broadcast(data, root)
                    part.copy_(data.view_as(part))

        return self._do("all_gather", list(parts), opts, act)

    def allgather_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        works = [self.allgather([parts], [tensor], opts) for parts, tensor in zip(outputs, inputs, strict=True)]
        return works[-1] if works else Finished([])

    def allgather_into_tensor_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        works = [self.all_gather_single(o, i, opts) for o, i in zip(outputs, inputs, strict=True)]
        return works[-1] if works else Finished([])

    def all_gather_single_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        return self.allgather_into_tensor_coalesced(outputs, inputs, opts)

    def gather(self, outputs: Any, inputs: Any, opts: Any) -> dist.Work:
        (tensor,) = _listed(inputs)
        parts = outputs[0] if self.rank() == opts.rootRank else []

        def act() -> None:
            rows = torch.empty((len(parts), tensor.numel()), dtype=tensor.dtype) if parts else None
            self.collectives.gather(rows, _dense(tensor), opts.rootRank)
            for part, row in zip(parts, () if rows is None else rows, strict=True):
                part.copy_(row.view_as(part))

        return self._do("gather", list(parts), opts, act)

    def scatter(self, outputs: Any, inputs: Any, opts: Any) -> dist.Work:
        (tensor,) = _listed(outputs)
        parts = inputs[0] if self.rank() == opts.rootRank else []

        def act() -> None:
            result = _dense(tensor)
            self.collectives.scatter(result, _joined(parts) if parts else None, opts.rootRank)
            _back(result, tensor)

        return self._do("scatter", [tensor], opts, act)

    def all_to_all_single(self, output: Tensor, input: Tensor, received: Any, sent: Any, opts: Any = None) -> dist.Work:
        def act() -> None:
            result, data = _dense(output), _dense(input)
            if received or sent:
                sizes = _elements(received, output, self.size()), _elements(sent, input, self.size())
                self.collectives.all_to_all_uneven(result, data, *sizes)
            else:
                self.collectives.all_to_all(result, data)
            _back(result, output)

        return self._do("all_to_all", [output], opts, act)

    def alltoall_base(self, output: Tensor, input: Tensor, received: Any, sent: Any, opts: Any = None) -> dist.Work:
        return self.all_to_all_single(output, input, received, sent, opts)

    def alltoall(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        def act() -> None:
            received, sent = [t.numel() for t in outputs], [t.numel() for t in inputs]
            rows = torch.empty(sum(received), dtype=inputs[0].dtype)
            self.collectives.all_to_all_uneven(rows, _joined(inputs), received, sent)
            for output, row in zip(outputs, rows.split(received), strict=True):
                output.copy_(row.view_as(output))

        return self._do("all_to_all", list(outputs), opts, act)

    def barrier(self, opts: Any = None) -> dist.Work:
        limit = opts.timeout.total_seconds() if opts is not None and opts.timeout > UNSET else None
        return self._do("barrier", [], opts, lambda: self.collectives.barrier(limit))

    def monitored_barrier(self, timeout: timedelta | None = None, wait_all_ranks: bool = False) -> None:
        opts = dist.BarrierOptions()
        opts.asyncOp, opts.timeout = False, timeout or timedelta(seconds=self._timeout_s)
        self.barrier(opts).wait()

    # --- messages --------------------------------------------------------------------------------------------

    def send(self, tensors: Any, dst: int, tag: int) -> dist.Work:
        (tensor,) = _listed(tensors)
        data = _dense(tensor)
        self.failures.refuse_broken()
        request = self.collectives.comm.Isend(as_bytes(data), dest=dst, tag=tag)
        work = Message(request, data, self._until("send", tensor, dst, tag), lambda status: None)
        self._sending = [older for older in self._sending if not older.is_completed()]
        self._sending.append(work)  # its memory must not go before it has gone
        return self._noted(work)

    def recv(self, tensors: Any, src: int, tag: int) -> dist.Work:
        (tensor,) = _listed(tensors)
        data = _dense(tensor)
        self.failures.refuse_broken()
        size = data.numel() * data.element_size()

        def landed(status: Any) -> None:
            if status.count != size:
                raise self.failures.of_message(
                    "recv", tensor, status.source, tag, f"{status.count} bytes came where {size} were expected"
                )
            _back(data, tensor)

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

    # --- what torch asks of a group --------------------------------------------------------------------------

    def arena(self, slot_bytes: int) -> Arena:
        """Memory the ranks of each node share; its tensors are reduced and broadcast where they lie. Collective.

        It lives as long as the group. Raises UserError where there is not enough shared memory.
        """
        arena = Arena(self.collectives.locality, slot_bytes, self._timeout_s)
        self.collectives.arenas.append(arena)
        return arena

    def name(self) -> str:
        return "ryzen"

    def _get_backend_name(self) -> str:
        return "ryzen"

    def _get_backend(self, device: torch.device) -> MpiGroup:
        return self

    @property
    def supports_coalescing(self) -> bool:
        return False

    @property
    def supports_splitting(self) -> bool:
        return False

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")]

    def getGroupName(self) -> str:
        return self._name

    def setGroupName(self, name: str) -> None:
        self._name = name

    _set_group_name = setGroupName

    @property
    def group_name(self) -> str:
        return self._name

    def _set_group_desc(self, description: str) -> None:
        self._description = description

    @property
    def group_desc(self) -> str:
        return self._description

    def get_group_store(self) -> dist.Store:
        return self._store

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout_s = timeout.total_seconds()

    def _set_sequence_number_for_group(self) -> None:
        self._sequence = 0

    def _get_sequence_number_for_group(self) -> int:
        return self._sequence

    def _has_hooks(self) -> bool:
        return False

    def _enable_collectives_timing(self) -> None:
        return None

    def _wait_for_pending_works(self) -> None:
        work = Pending([])
        self._line.put(lambda: None, work)
        work.wait()

    def _start_coalescing(self, device: torch.device) -> None:
        self._together = []

    def _end_coalescing(self, device: torch.device) -> dist.Work:
        works, self._together = self._together or [], None
        for work in works[:-1]:
            work.wait()
        return works[-1] if works else Finished([])

    def abort(self) -> None:
        """The other ranks of this node need not wait for this one. Local."""
        self.failures.broken = self.failures.broken or "the group was aborted on this rank"
        self.collectives.give_up()
        self._line.close()

    def shutdown(self) -> None:
        """Collective where the group is sound."""
        self._line.close()
        if self.failures.broken:
            return
        self.failures.broken = "the group was shut down"
        try:
            self.collectives.close()
        except PEER_ERRORS:
            self.failures.leave_without_finalize()


# --- tensors ---------------------------------------------------------------------------------------------


def _listed(tensors: Any) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _dense(tensor: Tensor) -> Tensor:
    """`tensor` itself where its memory can be used as it is, else a copy."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise TypeError(f"only dense tensors in main memory can be sent, not {tensor.layout} on {tensor.device}")
    tensor = tensor.detach()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor.contiguous()


def _back(data: Tensor, tensor: Tensor) -> None:
    """Carries a result home where it was made in a copy."""
    if data.data_ptr() != tensor.data_ptr():
        tensor.detach().copy_(data.view(tensor.shape))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([_dense(tensor).view(-1) for tensor in tensors])


def _elements(splits: Any, tensor: Tensor, ranks: int) -> list[int]:
    """Elements for each rank out of splits in rows, as PyTorch gives them; none given means equal parts."""
    rows = tensor.shape[0] if tensor.ndim else 1
    row = tensor.numel() // rows if rows else 0
    if not splits:
        if rows % ranks:
            raise ValueError(f"{rows} rows cannot be split equally among {ranks} ranks")
        splits = [rows // ranks] * ranks
    if sum(splits) != rows or len(splits) != ranks:
        raise ValueError(f"splits {list(splits)} do not add up to {rows} rows over {ranks} ranks")
    return [count * row for count in splits]


def _operation(opts: Any) -> tuple[str, Any]:
    """The reduction's name and what to multiply by first (or None)."""
    reduce_op = dist.ReduceOp.SUM if opts is None else getattr(opts, "reduceOp", opts)
    kind = reduce_op.op if isinstance(reduce_op, dist.ReduceOp) else reduce_op
    name = OP_NAMES.get(kind)
    if name is None:
        raise TypeError(f"reduction {reduce_op} is not known; there are {', '.join(OP_NAMES.values())}")
    return ("sum", reduce_op.__getstate__()[1]) if name == "premul_sum" else (name, None)
