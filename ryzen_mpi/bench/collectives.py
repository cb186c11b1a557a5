"""All-reduce written over point-to-point messages: a ring and a binary tree, to hold beside what libraries do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ryzen_mpi.bench.messages import Messages
from ryzen_mpi.bench.options import DataType
from ryzen_mpi.bench.prepared import Prepared, shares, vectors


def prepare(
    messages: Messages, operation: str, count: int, datatype: DataType, buffers: int, rank: int, ranks: int
) -> Prepared:
    """`ring_all_reduce` or `tree_all_reduce` of `count` elements, in place, on `buffers` sets of memory. Local."""
    dtype = getattr(torch, datatype.torch)
    make = {"ring_all_reduce": ring, "tree_all_reduce": tree}[operation]
    tensors = vectors(count, dtype, buffers)
    scratch = torch.zeros(count, dtype=dtype)
    calls = [make(messages, tensor, scratch, rank, ranks) for tensor in tensors]
    return Prepared(calls, tensors, tensors)


def ring(messages: Messages, tensor: Tensor, scratch: Tensor, rank: int, ranks: int) -> Callable[[], None]:
    """A call that sums `tensor` over all ranks: n-1 steps of reduce-scatter, then n-1 of all-gather, in a ring.

    Collective, as the call is. Every rank sends 2(n-1)/n of the vector, the least possible; latency grows with n.
    Source: Patarasu and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations, Journal of
    Parallel and Distributed Computing 69(2), section 3.
    """
    right, left = (rank + 1) % ranks, (rank - 1) % ranks
    ends = list(accumulate(shares(tensor.numel(), ranks)))
    parts = [tensor[end - size : end] for end, size in zip(ends, shares(tensor.numel(), ranks), strict=True)]
    steps: list[tuple[Any, Any, Tensor | None, Tensor | None]] = []  # sent, received, added to, added
    for step in range(ranks - 1):
        sent, got = parts[(rank - step) % ranks], parts[(rank - step - 1) % ranks]
        room = scratch[: got.numel()]
        steps.append((_message(messages, sent), _message(messages, room), got, room))
    for step in range(ranks - 1):
        sent, got = parts[(rank + 1 - step) % ranks], parts[(rank - step) % ranks]
        steps.append((_message(messages, sent), _message(messages, got), None, None))
    return partial(_run_ring, messages, steps, right, left)


def _message(messages: Messages, part: Tensor) -> Any:
    """The message of a part; None for an empty part, which sender and receiver both know to be empty."""
    return messages.message(part) if part.numel() else None


def _run_ring(messages: Messages, steps: list, right: int, left: int) -> None:
    for sent, received, target, added in steps:
        requests = [] if received is None else [messages.start_receive(received, left)]
        if sent is not None:
            requests.append(messages.start_send(sent, right))
        messages.finish(requests)
        if target is not None:
            target.add_(added)


def tree(messages: Messages, tensor: Tensor, scratch: Tensor, rank: int, ranks: int) -> Callable[[], None]:
    """A call that sums `tensor` over all ranks: up a binary tree to rank 0, and the sum down again.

    Collective, as the call is. 2 log2(n) hops, but the whole vector on each: for small messages. Source: the reduction
    to a root followed by a broadcast of Thakur, Rabenseifner and Gropp 2005, Optimization of collective communication
    operations in MPICH, International Journal of High Performance Computing Applications 19(1), sections 4.3 and 4.5,
    here with the complete binary tree in which rank r's children are 2r+1 and 2r+2.
    """
    children = [child for child in (2 * rank + 1, 2 * rank + 2) if child < ranks]
    parent = (rank - 1) // 2 if rank else None
    return partial(_run_tree, messages, messages.message(tensor), messages.message(scratch), tensor, scratch, parent,
                   children)  # fmt: skip


def _run_tree(
    messages: Messages, whole: Any, room: Any, tensor: Tensor, scratch: Tensor, parent: int | None, children: list[int]
) -> None:
    for child in children:
        messages.receive(room, child)
        tensor.add_(scratch)
    if parent is not None:
        messages.send(whole, parent)
        messages.receive(whole, parent)
    messages.finish([messages.start_send(whole, child) for child in children])
