"""How far apart numbers are, in bits and in units in the last place."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(vector: Tensor) -> Tensor:
    """The bits of a float vector as integers of its width; a view. Local."""
    return vector.contiguous().view(_BITS[vector.element_size()])


def ulp_distances(one: Tensor, other: Tensor) -> Tensor:
    """Representable numbers between each pair of elements of the same type, +1: 0 for equal ones, int64. Pure.

    -0 and +0 are one apart in bits and 0 here: they are the same number. Exact up to 2^62, and 2^62 beyond.
    """
    ours, theirs = (_ordered(bits(vector)) for vector in (one, other))
    far = (ours.double() - theirs.double()).abs() > 2.0**62
    return torch.where(far, torch.tensor(2**62), (ours - theirs).abs())


def _ordered(integers: Tensor) -> Tensor:
    """Integers in the order of the floats whose bits they are: sign and magnitude become two's complement."""
    lowest = torch.iinfo(integers.dtype).min
    wide = integers.long()
    return torch.where(wide < 0, lowest - wide, wide)
