"""Dropout whose mask belongs to the sample, not to the rank.

A mask is a function of (the sample's key, the place in the model), so a step's result does not depend on how many ranks
share the batch, and recomputing activations in backward draws the same mask again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MASK64 = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """A 63-bit hash of integers (splitmix64's finaliser, Steele et al. 2014, figure 19)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state + (number & _MASK64) + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


class SampleDropout(nn.Module):
    """Zeroes a share `p` of the elements and scales the others by 1 / (1 - p), in training only.

    Args:
        p: share of elements dropped.
        place: number of this place in the model, so that places differ.
    """

    def __init__(self, p: float, place: int) -> None:
        super().__init__()
        self.p, self.place = p, place

    def forward(self, x: Tensor, keys: tuple[int, ...] | None) -> Tensor:
        """`x` [batch, ...] with the mask of each sample's key; unchanged where there is nothing to drop."""
        if not self.training or self.p == 0.0 or keys is None:
            return x
        generator = torch.Generator()
        mask = torch.empty(x.shape, dtype=x.dtype)
        for row, key in zip(mask, keys, strict=True):
            row.bernoulli_(1 - self.p, generator=generator.manual_seed(mix(key, self.place)))
        return x * mask.div_(1 - self.p)
