"""One slice among the nodes: what crosses the network in an all-reduce, and the order in which it is added.

MPI has no bfloat16 and promises no order of additions, so its all-reduce is not used: every rank gets one part of the
slice from all others, adds the parts in rank order with the kernel, and gives the sum to all. That moves the
2 (n-1)/n of the slice that any all-reduce must (Patarasuk and Yuan, 2009), in its own width, and gives every rank the
same bits at any timing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ryzen_mpi.comm.plain import reduce as plain_reduce
from ryzen_mpi.comm.plain import slice_of
from ryzen_mpi.comm.region import _kernel
from ryzen_mpi.comm.waiting import Patience

SMALL_BYTES = 8192
"""Up to here one round trip with everything is quicker than two with parts."""
How = tuple[int, int, int]


def add_up(sources: list[Tensor], target: Tensor, how: How, plain: bool = False) -> None:
    """Sums `sources` in their order into `target`; all contiguous, of one length. `how`: from dtypes.py. Local."""
    function = plain_reduce if plain or _kernel is None else _kernel.reduce
    addresses = tuple(source.data_ptr() for source in sources)
    function(addresses, (target.data_ptr(),), target.numel(), *how)


def exchange(data: Tensor, comm: Any, how: How, plain: bool = False) -> Iterator[Any]:
    """All-reduces contiguous `data` in place over `comm`, in two halves. Collective.

    Yields the MPI request to wait for before each next step, so that a caller can put work between. All ranks must
    take the steps of several exchanges in the same order.
    """
    if not data.numel():
        return
    if data.numel() * data.element_size() <= SMALL_BYTES:
        yield from _at_once(data, comm, how, plain)
    else:
        yield from _in_parts(data, comm, how, plain)


def _at_once(data: Tensor, comm: Any, how: How, plain: bool) -> Iterator[Any]:
    everyone = torch.empty((comm.size, data.numel()), dtype=data.dtype)
    yield comm.Iallgather(as_bytes(data), as_bytes(everyone))
    add_up(list(everyone), data, how, plain)


def _in_parts(data: Tensor, comm: Any, how: How, plain: bool) -> Iterator[Any]:
    item = data.element_size()
    parts = [slice_of(data.numel(), item, rank, comm.size) for rank in range(comm.size)]
    sizes = [(part.stop - part.start) * item for part in parts]
    starts = [part.start * item for part in parts]
    mine = data[parts[comm.rank]]
    theirs = torch.empty((comm.size, mine.numel()), dtype=data.dtype)
    room = (as_bytes(theirs), ([sizes[comm.rank]] * comm.size, None))
    yield comm.Ialltoallv((as_bytes(data), (sizes, starts)), room)
    if mine.numel():
        add_up(list(theirs), mine, how, plain)
    yield comm.Iallgatherv(in_place(), (as_bytes(data), (sizes, starts)))


class Travelling:
    """An exchange under way."""

    def __init__(self, steps: Iterator[Any], patience: Patience) -> None:
        self.steps, self.patience = steps, patience
        self.request = next(steps, None)

    def advance(self) -> None:
        """Waits for what is under way and starts what comes next. Collective."""
        if self.request is not None:
            self.patience.finish(self.request)
            self.request = next(self.steps, None)

    def finish(self) -> None:
        """Until nothing is under way. Collective."""
        while self.request is not None:
            self.advance()


def as_bytes(tensor: Tensor) -> Any:
    """The memory of a contiguous tensor as MPI takes it, whatever its dtype. The tensor must outlive the use. Local."""
    from mpi4py import MPI

    return MPI.buffer.fromaddress(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def in_place() -> Any:
    """MPI's mark for a buffer that is its own source. Local."""
    from mpi4py import MPI

    return MPI.IN_PLACE
