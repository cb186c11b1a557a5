"""The process group: torch.distributed's calls, done by collectives.py over MPI and shared memory.

Every method is here or in the classes below it, none falls through to C++: one that did could deadlock on the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.comm.messages import Messages
from ryzen_mpi.comm.tensors import back, dense, elements, joined, listed, operation
from ryzen_mpi.comm.work import Finished


class MpiGroup(Messages):
    """torch.distributed's collectives over an MPI communicator. All methods are collective."""

    # --- reductions ------------------------------------------------------------------------------------------

    def allreduce(self, tensors: Any, opts: Any = None) -> dist.Work:
        tensors = listed(tensors)
        op, factor = operation(opts)

        def act() -> None:
            for tensor in tensors:
                data = dense(tensor)
                if factor is not None:
                    data = data * factor
                self.collectives.all_reduce(data, op)
                back(data, tensor)

        return self._do("all_reduce", tensors, opts, act)

    def allreduce_coalesced(self, tensors: Any, opts: Any = None) -> dist.Work:
        return self.allreduce(tensors, opts)

    def allreduce_by(self, tensor: Tensor, across: Callable[[Tensor], None]) -> None:
        """The sum of a tensor of an arena, in place, where `across` sums a slice [n] over the nodes."""
        arena = self.collectives.arena_of(tensor)
        if arena is None:
            raise ValueError("the tensor lies in no arena of this group")
        opts = dist.AllreduceOptions()
        opts.asyncOp = False
        self._do("all_reduce", [tensor], opts, lambda: arena.all_reduce_by(tensor, across)).wait()

    def reduce(self, tensors: Any, opts: Any) -> dist.Work:
        (tensor,) = listed(tensors)
        op, factor = operation(opts)

        def act() -> None:
            data = dense(tensor)
            if factor is not None:
                data = data * factor
            self.collectives.reduce(data, opts.rootRank, op)
            if self.rank() == opts.rootRank:
                back(data, tensor)

        return self._do("reduce", [tensor], opts, act)

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        op, factor = operation(opts)

        def act() -> None:
            data, result = dense(input), dense(output)
            if factor is not None:
                data = data * factor
            self.collectives.reduce_scatter(result, data, op)
            back(result, output)

        return self._do("reduce_scatter", [output], opts, act)

    def _reduce_scatter_base(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        return self.reduce_scatter_single(output, input, opts)

    def reduce_scatter(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        (output,), (parts,) = listed(outputs), inputs
        op, factor = operation(opts)

        def act() -> None:
            result = dense(output)
            if all(part.numel() == output.numel() for part in parts):
                data = joined(parts)
                self.collectives.reduce_scatter(result, data if factor is None else data * factor, op)
            else:  # parts of different length: each is a reduction to one rank
                for root, part in enumerate(parts):
                    data = dense(part) if factor is None else part * factor
                    data = data.clone() if data is part else data
                    self.collectives.reduce(data, root, op)
                    if root == self.rank():
                        result.detach().copy_(data.view_as(result))
            back(result, output)

        return self._do("reduce_scatter", [output], opts, act)

    def reduce_scatter_tensor_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        works = [self.reduce_scatter_single(o, i, opts) for o, i in zip(outputs, inputs, strict=True)]
        return works[-1] if works else Finished([])

    def reduce_scatter_single_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        return self.reduce_scatter_tensor_coalesced(outputs, inputs, opts)

    # --- moves -----------------------------------------------------------------------------------------------

    def broadcast(self, tensors: Any, opts: Any) -> dist.Work:
        tensors = listed(tensors)

        def act() -> None:
            for tensor in tensors:
                data = dense(tensor)
                self.collectives.broadcast(data, opts.rootRank)
                if self.rank() != opts.rootRank:
                    back(data, tensor)

        return self._do("broadcast", tensors, opts, act)

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        def act() -> None:
            result = dense(output)
            self.collectives.all_gather(result, dense(input))
            back(result, output)

        return self._do("all_gather", [output], opts, act)

    def _allgather_base(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        return self.all_gather_single(output, input, opts)

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        (parts,), (tensor,) = outputs, listed(inputs)

        def act() -> None:
            if all(part.numel() == tensor.numel() for part in parts):
                rows = torch.empty((self.size(), tensor.numel()), dtype=tensor.dtype)
                self.collectives.all_gather(rows, dense(tensor))
                for part, row in zip(parts, rows, strict=True):
                    part.detach().copy_(row.view_as(part))
            else:  # parts of different length: each is a broadcast from its owner
                for root, part in enumerate(parts):
                    data = dense(tensor) if root == self.rank() else dense(part)
                    self.collectives.broadcast(data, root)
                    back(data, part)

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
        (tensor,) = listed(inputs)
        parts = outputs[0] if self.rank() == opts.rootRank else []

        def act() -> None:
            rows = torch.empty((len(parts), tensor.numel()), dtype=tensor.dtype) if parts else None
            self.collectives.gather(rows, dense(tensor), opts.rootRank)
            for part, row in zip(parts, () if rows is None else rows, strict=True):
                part.detach().copy_(row.view_as(part))

        return self._do("gather", list(parts), opts, act)

    def scatter(self, outputs: Any, inputs: Any, opts: Any) -> dist.Work:
        (tensor,) = listed(outputs)
        parts = inputs[0] if self.rank() == opts.rootRank else []

        def act() -> None:
            result = dense(tensor)
            self.collectives.scatter(result, joined(parts) if parts else None, opts.rootRank)
            back(result, tensor)

        return self._do("scatter", [tensor], opts, act)

    def all_to_all_single(self, output: Tensor, input: Tensor, received: Any, sent: Any, opts: Any = None) -> dist.Work:
        def act() -> None:
            result, data = dense(output), dense(input)
            if received or sent:
                sizes = elements(received, output, self.size()), elements(sent, input, self.size())
                self.collectives.all_to_all_uneven(result, data, *sizes)
            else:
                self.collectives.all_to_all(result, data)
            back(result, output)

        return self._do("all_to_all", [output], opts, act)

    def alltoall_base(self, output: Tensor, input: Tensor, received: Any, sent: Any, opts: Any = None) -> dist.Work:
        return self.all_to_all_single(output, input, received, sent, opts)

    def alltoall(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:
        def act() -> None:
            received, sent = [t.numel() for t in outputs], [t.numel() for t in inputs]
            rows = torch.empty(sum(received), dtype=inputs[0].dtype)
            self.collectives.all_to_all_uneven(rows, joined(inputs), received, sent)
            for output, row in zip(outputs, rows.split(received), strict=True):
                output.detach().copy_(row.view_as(output))

        return self._do("all_to_all", list(outputs), opts, act)

    def barrier(self, opts: Any = None) -> dist.Work:
        limit = opts.timeout.total_seconds() if opts is not None else -1.0  # negative: none given
        return self._do("barrier", [], opts, self.collectives.barrier, limit if limit > 0 else None)

    def monitored_barrier(self, timeout: timedelta | None = None, wait_all_ranks: bool = False) -> None:
        opts = dist.BarrierOptions()
        opts.asyncOp, opts.timeout = False, timeout or timedelta(seconds=self._timeout_s)
        self.barrier(opts).wait()
