"""One number made of every bit of a rank's weights: where ranks have others, their weights are not alike."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

_WORDS = 4096
"""Words of eight bytes that are added up; sums are weighted by odd numbers, so that what moves elsewhere is seen."""


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
