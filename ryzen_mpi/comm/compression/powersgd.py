"""PowerSGD (Vogels et al. 2019): the best approximation of low rank, by one step of subspace iteration a sum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ryzen_mpi.comm.across import add_up
from ryzen_mpi.comm.compression.wire import Feedback, Wire, in_rows
from ryzen_mpi.comm.dtypes import reduction

ROWS = 64
"""Of a matrix that are computed at a time when it is put together again: they stay in a core's cache."""


class PowerSgd(Feedback):
    """See `wire.Compressor`. Algorithms 1 and 2 of the paper, with sums in place of means.

    A slice of the flat gradient is no matrix of the model: parameters are cut across ranks and nodes. So the part that
    a node owns is taken for a nearly square matrix M, row by row, filled up with zeros. That sends least, 2 (a + b)
    rank values of a * b; what rows have in common because they are rows of one parameter is only found where the widths
    agree, so the approximation is worse than by layer, and more is left to the error.

    Every node's M Q is summed by the owner, who makes the basis P of it (QR in float64) and sends it to all; every
    node's M^T P is summed by the owner and sent to all: it is the next Q (warm start), and P Q^T is the sum. The error
    a node keeps is its own M - P P^T M. So what must be the same on all nodes is computed once.
    """

    def __init__(self, wire: Wire, rank: int) -> None:
        super().__init__()
        self.wire, self.traffic, self.rank = wire, wire.traffic, rank
        self._start: Tensor | None = None

    def begin(self) -> None:
        super().begin()
        self.traffic.begin()

    def forget(self) -> None:
        super().forget()
        self._start = None

    def reduce_scatter(self, parts: Tensor, own: Tensor) -> None:
        bases, factors = self._factors(parts)
        own.copy_(product(bases[self.wire.me], factors[self.wire.me])[: own.numel()])

    def all_reduce(self, values: Tensor) -> None:
        bases, factors = self._factors(in_rows(values, self.wire.nodes))
        width = -(-values.numel() // self.wire.nodes)
        for part, basis, factor in zip(values.split(width), bases, factors, strict=False):
            part.copy_(product(basis, factor)[: part.numel()])

    def _factors(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """P [nodes, a, rank] and Q [nodes, b, rank]: row m is the sum of the nodes' `parts[m]`."""
        a, b = shape(parts.shape[1])
        owed = self.owed(parts, a * b)
        matrices = owed.view(-1, a, b)
        if self._start is None:
            self._start = first_factors(len(parts), b, min(self.rank, a, b), parts.dtype)
        basis = orthonormal(self._summed(matrices @ self._start))
        bases = self.wire.to_all(basis)
        factors = matrices.mT @ bases
        matrices.baddbmm_(bases, factors.mT, alpha=-1)
        owed[:, parts.shape[1] :] = 0
        self._start = self.wire.to_all(self._summed(factors))
        return bases, self._start

    def _summed(self, rows: Tensor) -> Tensor:
        """The sum over nodes of the row that is this node's."""
        got = self.wire.to_each(rows)
        total = torch.empty_like(got[0])
        add_up(list(got), total, reduction(total.dtype, "sum", self.wire.nodes))
        return total


def shape(size: int) -> tuple[int, int]:
    """(a, b) of the nearly square matrix that `size` elements fill."""
    a = max(1, math.isqrt(size))
    return a, max(1, -(-size // a))


def first_factors(count: int, b: int, rank: int, dtype: torch.dtype) -> Tensor:
    """[count, b, rank] to start from: drawn, and the same everywhere."""
    drawn = torch.randn(count, b, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(dtype)


def orthonormal(columns: Tensor) -> Tensor:
    """[a, rank]: a basis of the space of the columns; where they are dependent, of one that holds it.

    In float64, so that the largest float32 can be squared. What is not finite makes all of it NaN.
    """
    if not columns.isfinite().all():
        return torch.full_like(columns, math.nan)
    return torch.linalg.qr(columns.double()).Q.to(columns.dtype)


def product(basis: Tensor, factor: Tensor) -> Tensor:
    """P Q^T [a * b], by one multiplication and one addition after the other: the same bits on every kind of processor.

    A matrix product's depend on the width of the registers.
    """
    result = basis.new_zeros(len(basis), len(factor))
    columns = factor.mT.contiguous()
    for rows, left in zip(result.split(ROWS), basis.split(ROWS), strict=True):
        for number, column in enumerate(columns):
            rows += left[:, number, None] * column
    return result.view(-1)
