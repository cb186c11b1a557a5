"""The largest values alone, with error feedback (Aji and Heafield 2017; Lin et al. 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ryzen_mpi.comm.compression.wire import PIECE_BYTES, Feedback, Wire

LARGEST_CHUNK = 1 << 16
"""Elements that a share is chosen from: 16 bits tell which of them."""


class TopK(Feedback):
    """See `wire.Compressor`. Of every chunk of at most 65536 elements the `share` with the largest size is sent.

    Chunk by chunk, and not over the whole vector: so every layer is heard, an index takes two bytes, and the choice
    runs in a core's cache. A value takes two bytes more, as bfloat16; what rounding takes away stays in the error, as
    does all that was not chosen. An all-reduce sends everybody everybody's choice.
    """

    def __init__(self, wire: Wire, share: float) -> None:
        super().__init__()
        self.wire, self.traffic, self.share = wire, wire.traffic, share

    def begin(self) -> None:
        super().begin()
        self.traffic.begin()

    def reduce_scatter(self, parts: Tensor, own: Tensor) -> None:
        self._sum(parts, own, self.wire.to_each)

    def all_reduce(self, values: Tensor) -> None:
        self._sum(values[None], values, lambda sent: self.wire.to_all(sent[0]))

    def _sum(self, rows: Tensor, target: Tensor, exchange) -> None:
        count, width = chunks(target.numel())
        owed = self.owed(rows, count * width).view(len(rows), count, width)
        step = max(1, PIECE_BYTES // (width * rows.element_size()))
        for begin in range(0, count, step):
            got = exchange(self._choose(owed[:, begin : begin + step]))
            total = torch.zeros(got.shape[1], width, dtype=target.dtype)
            for indices, values in map(unpacked, got):  # in the order of the nodes
                total.scatter_add_(1, indices, values.to(total.dtype))
            piece = target[begin * width : (begin + step) * width]
            piece.copy_(total.view(-1)[: piece.numel()])

    def _choose(self, owed: Tensor) -> Tensor:
        """[rows, chunks, 2, k] int16: indices and values of the largest of `owed` [rows, chunks, width].

        They are taken out of it. What is not a number counts as the largest.
        """
        indices = owed.abs().topk(chosen(owed.shape[-1], self.share), sorted=False).indices
        values = owed.gather(-1, indices)
        sent = values.to(torch.bfloat16)
        owed.scatter_(-1, indices, values - sent.to(values.dtype))
        return torch.stack([indices.to(torch.int16), sent.view(torch.int16)], dim=-2)


def chunks(size: int) -> tuple[int, int]:
    """Number and length of equal chunks that `size` elements are cut into."""
    count = max(1, -(-size // LARGEST_CHUNK))
    return count, max(1, -(-size // count))


def chosen(width: int, share: float) -> int:
    """How many of a chunk are sent."""
    return max(1, math.ceil(width * share))


def unpacked(sent: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [chunks, k] and values [chunks, k] of one node."""
    return sent[:, 0].to(torch.int64) & 0xFFFF, sent[:, 1].contiguous().view(torch.bfloat16)
