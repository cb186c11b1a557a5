"""The weights a training starts from: drawn by rank 0, a stretch at a time, so that nobody holds them all twice."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.reduce import BROADCAST_BYTES, world_size


def first_values(
    model: Transformer, seed: int, group: dist.ProcessGroup | None = None
) -> Iterator[tuple[str, int, Tensor]]:
    """Parameter, place in it and values (float32, flat) of one stretch after the other, on all ranks. Collective.

    Only rank 0 draws: processors of different make may draw other random numbers.
    """
    ranks = world_size(group)
    drawn = model.first_values(seed) if ranks == 1 or dist.get_rank(group) == 0 else None
    size = BROADCAST_BYTES // 4
    for name, parameter in model.named_parameters():
        values = next(drawn)[1].view(-1) if drawn is not None else None
        for begin in range(0, parameter.numel(), size):
            length = min(size, parameter.numel() - begin)
            piece = torch.empty(length) if values is None else values[begin : begin + length]
            if ranks > 1:
                dist.broadcast(piece, src=0, group=group)
            yield name, begin, piece
