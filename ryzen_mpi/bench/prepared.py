"""What a backend makes ready to be measured, and how it says that it can't."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class Unavailable(Exception):
    """A backend has no such operation, datatype or size; the text is the reason, shown in place of figures."""


@dataclass
class Prepared:
    """An operation on several sets of memory, ready to be called.

    Attributes:
        calls: one call a set; cycled, so that caches do not hold what the next call needs.
        inputs: what this rank contributes, a tensor a set; may be the same memory as the outputs.
        outputs: where this rank finds its result.
        input_start, output_start: index, in the whole result, of an input's and an output's first element.
        release: gives the memory back; as collective as the operation.
    """

    calls: list[Callable[[], Any]]
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    input_start: int = 0
    output_start: int = 0
    release: Callable[[], None] = lambda: None

    def clear(self) -> None:
        """Zeros everywhere: sums stay zero however often they are repeated, and every page is there. Local."""
        for tensor in (*self.inputs, *self.outputs):
            tensor.zero_()


@dataclass(frozen=True)
class Shape:
    """Elements of one set of memory on this rank.

    Attributes:
        inputs, outputs: elements a rank gives and gets.
        total_bytes: what the operation is about, S of NCCL's bus bandwidth.
        footprint: bytes of memory on this rank.
    """

    inputs: int
    outputs: int
    total_bytes: int
    footprint: int


IN_PLACE = ("all_reduce", "broadcast", "reduce_scatter", "ring_all_reduce", "tree_all_reduce")


def shape(operation: str, count: int, item: int, ranks: int) -> Shape:
    """The memory of `operation` on `count` elements of `item` bytes, counted as OSU counts them. Local.

    OSU's size is the whole vector in all-reduce, reduce-scatter and broadcast, one rank's part in all-gather, and the
    message for one rank in all-to-all.
    """
    if operation == "all_gather":
        return Shape(count, count * ranks, count * item * ranks, count * item * (ranks + 1))
    if operation == "all_to_all":
        return Shape(count * ranks, count * ranks, count * item * ranks, 2 * count * item * ranks)
    if operation in IN_PLACE:
        return Shape(count, count, count * item, count * item * (1 if operation in ("all_reduce", "broadcast") else 2))
    return Shape(count, count, count * item, 2 * count * item)


def shares(count: int, ranks: int) -> list[int]:
    """Elements of each rank's part of `count`; the first ranks take what does not divide, as in OSU. Local."""
    return [count // ranks + (rank < count % ranks) for rank in range(ranks)]


def vectors(count: int, dtype: torch.dtype, buffers: int) -> list[Tensor]:
    """`buffers` tensors of `count` elements on pages of their own or beside each other. Local."""
    # 64 bytes apart at least: two messages in one cache line would meet in it
    stride = -(-count * dtype.itemsize // 64) * 64
    memory = torch.zeros(max(1, stride * buffers), dtype=torch.uint8)
    return [memory[i * stride : i * stride + count * dtype.itemsize].view(dtype) for i in range(buffers)]
