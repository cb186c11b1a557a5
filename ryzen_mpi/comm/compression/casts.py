"""Half the bytes: values travel in 16 bits and are added up in their own precision. No error is kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ryzen_mpi.comm.compression.wire import PIECE_BYTES, Memoryless, in_rows
from ryzen_mpi.comm.widen import widen_sum

TOP = 15
"""A scaled row's largest value lies below 2^15: float16 ends at 65504."""
FURTHEST = 120
"""Powers of two that a row is scaled by at most: 2^120 is still a float32."""


class Cast(Memoryless):
    """See `wire.Compressor`. bfloat16: 8 bits of precision, float32's range.

    An all-reduce rounds twice: what every node sends, and the sum.
    """

    dtype = torch.bfloat16

    def reduce_scatter(self, parts: Tensor, own: Tensor) -> None:
        step = max(1, PIECE_BYTES // parts.element_size() // self.wire.nodes)
        for begin in range(0, own.numel(), step):
            got = self.wire.to_each(self.narrow(parts[:, begin : begin + step]))
            widen_sum(self.widen(got, own.dtype), own[begin : begin + step], add=False)

    def all_reduce(self, values: Tensor) -> None:
        if not values.numel():
            return
        for piece in values.split(max(1, PIECE_BYTES // values.element_size())):
            parts = in_rows(piece, self.wire.nodes)
            own = parts.new_empty(parts.shape[1])
            self.reduce_scatter(parts, own)
            everyone = self.widen(self.wire.to_all(self.narrow(own[None])[0]), own.dtype)
            piece.copy_(torch.cat(everyone)[: piece.numel()])

    def narrow(self, rows: Tensor) -> Tensor:
        """[rows, ...] to send. Local."""
        return rows.to(torch.bfloat16)

    def widen(self, got: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """The rows that `narrow` was given, rounded; as float32 or wider they are exact. Local."""
        return list(got)


class ScaledCast(Cast):
    """float16: 11 bits of precision, but a small range: every row is scaled by a power of two, which is exact.

    Its largest value comes just below float16's, so nothing overflows, and what is up to 2^29 times smaller keeps all
    its bits. The power stands in front of the row. A row that is not finite is sent as it is.
    """

    dtype = torch.float16

    def narrow(self, rows: Tensor) -> Tensor:
        shifts = [_shift(largest) for largest in rows.abs().amax(dim=1).tolist()]
        factors = torch.tensor([math.ldexp(1.0, shift) for shift in shifts], dtype=rows.dtype)
        sent = torch.empty(len(rows), 1 + rows.shape[1], dtype=torch.float16)
        sent[:, 0] = torch.tensor(shifts)
        sent[:, 1:] = rows * factors[:, None]
        return sent

    def widen(self, got: Tensor, dtype: torch.dtype) -> list[Tensor]:
        return [row[1:].to(dtype) * math.ldexp(1.0, -int(row[0])) for row in got]


def _shift(largest: float) -> int:
    """The power of two that brings `largest` below 2^TOP and not below its half."""
    if not math.isfinite(largest) or largest == 0.0:
        return 0
    return max(-FURTHEST, min(FURTHEST, TOP - math.frexp(largest)[1]))
