"""Whether the ranks' weights are alike, to the last bit: a number made of all of them, a rank, and who differs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.training.reduce import world_size

_WORDS = 4096
"""Words of eight bytes that are added up; sums are weighted by odd numbers, so that what moves elsewhere is seen."""
_HALF = 32


def weights_number(vectors: Iterable[Tensor]) -> int:
    """64 bits made of every bit of `vectors`, at the speed of memory. Local.

    One bit that is flipped always shows: the sum of its words changes by a power of two, modulo 2^64, and an odd factor
    keeps that from becoming 0. It is no protection against anybody who means harm.
    """
    total = 0
    for vector in vectors:
        raw = vector.detach().view(torch.uint8).numpy()
        cut = raw.size - raw.size % (8 * _WORDS)
        sums = raw[:cut].view(np.uint64).reshape(-1, _WORDS).sum(axis=1, dtype=np.uint64)
        factors = np.arange(sums.size, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        rest = np.zeros(8 * _WORDS, np.uint8)
        rest[: raw.size - cut] = raw[cut:]
        tail = int(rest.view(np.uint64).sum(dtype=np.uint64)) * (2 * sums.size + 1)
        # the factor keeps two vectors apart that have changed places
        total = (total * 3 + int((sums * factors).sum(dtype=np.uint64)) + tail) % 2**64
    return total


def everyones(number: int, group: dist.ProcessGroup | None = None) -> list[int]:
    """Every rank's 64-bit `number`, in rank order. Collective."""
    if world_size(group) == 1:
        return [number]
    mine = torch.tensor([number >> _HALF, number % 2**_HALF], dtype=torch.int64)
    rows = [torch.empty_like(mine) for _ in range(world_size(group))]
    dist.all_gather(rows, mine, group=group)
    return [(high << _HALF) + low for high, low in (row.tolist() for row in rows)]
