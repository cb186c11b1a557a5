"""-c: the results of every backend, on every set of memory, against a reference computed without communication.

Inputs are small whole numbers, exact in every datatype, that tell the rank, the set and the place they come from; a sum
of them over all ranks is exact too, so that a result is right or wrong, never close.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ryzen_mpi.bench.options import DataType
from ryzen_mpi.bench.prepared import Prepared, Unavailable
from ryzen_mpi.cluster.exchange import wait

SUMS = ("all_reduce", "reduce_scatter", "ring_all_reduce", "tree_all_reduce")
_LATE_S = 0.005


def modulus(datatype: DataType, ranks: int, operation: str) -> int:
    """Inputs are below this, so that a sum over `ranks` is exact. Local. Raises Unavailable where none is."""
    limit = min(datatype.exact, 1 << 20) // (ranks if operation in SUMS else 1)
    if limit < 1:
        raise Unavailable(f"-c: sums of {ranks} ranks are not exact in {datatype.name}")
    return min(limit + 1, 1009)


def pattern(rank: int, number: int, start: int, count: int, below: int) -> Tensor:
    """[count] int64, what `rank` puts into set `number` from element `start` on. Local."""
    return _tiled(_period(rank, number, start, count, below), count)


def _period(rank: int, number: int, start: int, count: int, below: int) -> Tensor:
    """[at most `below`] int64, after which the pattern comes again."""
    places = torch.arange(start, start + min(count, below), dtype=torch.int64)
    return (places * 31 + rank * 17 + number * 7 + 1) % below


def _tiled(period: Tensor, count: int) -> Tensor:
    return period if len(period) >= count else period.repeat(-(-count // len(period)))[:count]


def expected(
    operation: str, rank: int, ranks: int, number: int, start: int, count: int, below: int, peer: int, inputs: int
) -> Tensor:
    """[count] int64, what `rank` has to find in set `number` from element `start` on. Local.

    `peer` is who sent a message, `inputs` the elements of this rank's contribution.
    """
    if operation in SUMS:
        # of one period: over every element it took 16 ranks on two cores minutes to know what to expect
        return _tiled(sum(_period(other, number, start, count, below) for other in range(ranks)), count)
    if operation == "broadcast":
        return pattern(0, number, start, count, below)
    if operation == "all_gather":  # the place alone tells: whose part it is depends on the backend
        return pattern(0, number, start, count, below)
    if operation == "all_to_all":
        block = inputs // ranks
        return torch.cat([pattern(other, number, rank * block, block, below) for other in range(ranks)])
    return pattern(peer, number, start, count, below)


def wrong_elements(comm: Any, prepared: Prepared, operation: str, datatype: DataType, peer: int = 0) -> int:
    """How many elements are wrong, over all ranks and sets of memory; of messages from rank `peer`. Collective.

    Raises Unavailable where no reference is exact.
    """
    from mpi4py import MPI

    rank, ranks = comm.rank, comm.size
    if operation == "barrier":
        return _left_early(comm, prepared)
    below = modulus(datatype, ranks, operation)
    for number, tensor in enumerate(prepared.outputs):  # first: an input may lie in its output
        tensor.fill_(-1 if number % 2 else 3)
    for number, tensor in enumerate(prepared.inputs):
        who, start = (0, prepared.input_start) if operation == "all_gather" else (rank, 0)
        tensor.copy_(pattern(who, number, start, tensor.numel(), below))
    for call in prepared.calls:
        if operation != "message":  # its two ends wait for each other, and for a pair all ranks would have to meet
            wait(comm.Ibarrier())  # and not spinning: Gloo's threads need the cores
        call()
    wrong = 0
    for number, tensor in enumerate(prepared.outputs):
        elements = prepared.inputs[number].numel()
        answer = expected(operation, rank, ranks, number, prepared.output_start, tensor.numel(), below, peer, elements)
        wrong += int((tensor != answer.to(tensor.dtype)).sum())
    total = np.array([wrong], dtype=np.int64)
    wait(comm.Iallreduce(MPI.IN_PLACE, total))
    return int(total[0])


def _left_early(comm: Any, prepared: Prepared) -> int:
    """Ranks that left the barrier before the last had come, each being late once; by the clock of one node."""
    early = 0
    for late in range(comm.size):
        wait(comm.Ibarrier())
        if comm.rank == late:
            time.sleep(_LATE_S)
        came = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        prepared.calls[0]()
        times = np.zeros((comm.size, 2), dtype=np.int64)
        comm.Allgather(np.array([came, time.clock_gettime_ns(time.CLOCK_MONOTONIC)]), times)
        early += int((times[:, 1] < times[:, 0].max()).sum())
    return early
