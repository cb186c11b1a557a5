"""How far apart numbers may be for rounding alone: bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LAMBDA = 5.0
"""Of the probabilistic bounds: one fails with a probability below 2 exp(-LAMBDA^2 / 2) = 7.5e-6 (theorem 2.4 there)."""


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of rounding to nearest: 2^-24 in float32, 2^-8 in bfloat16. Pure."""
    return torch.finfo(dtype).eps / 2


def gamma(n: int, unit: float) -> float:
    """n u / (1 - n u), which bounds the relative error that n roundings make together. Pure.

    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, 2nd edition, lemma 3.1. A sum of n + 1 terms,
    in any order of additions, is off by at most gamma(n) times the sum of their magnitudes (there, section 4.2).
    """
    assert n * unit < 1
    return n * unit / (1 - n * unit)


def probable_gamma(n: int, unit: float, factor: float = LAMBDA) -> float:
    """As `gamma`, where errors are taken for independent with mean zero: grows with the root of n. Pure.

    Source: Higham & Mary 2019, SIAM J. Scientific Computing 41(5), equation 2.4.
    """
    return math.expm1(factor * math.sqrt(n) * unit + n * unit * unit / (1 - unit))


def sum_bound(magnitude: Tensor, terms: int, dtype: torch.dtype) -> Tensor:
    """By how much a sum of `terms` in `dtype` may be off, by element; `magnitude`: sum of absolute values. Pure.

    Sound for every order of additions. What underflows may be lost by an addition that flushes to zero.
    """
    steps = max(0, terms - 1)
    return gamma(steps, unit_roundoff(dtype)) * magnitude + steps * torch.finfo(dtype).tiny


def gradient_bound(layers: int, longest: int, compute: torch.dtype) -> float:
    """By how much a gradient of the transformer may be off in `compute`, relative, in the L2 norm. Pure.

    First order. A gradient comes out of 2 (12 layers + 4) operations one after the other (twelve in a block: two norms,
    four products with weights, two in attention, softmax, GELU, two additions; four around the blocks; as many back).
    Each rounds its result to `compute`, and adds up products of at most `longest` terms in float32 or wider, which
    contributes `probable_gamma`. Operations are taken to pass relative errors on without magnifying them: the norms
    before every product keep them from growing, but nothing proves that they do.
    """
    wide = torch.promote_types(compute, torch.float32)
    operations = 2 * (12 * layers + 4)
    return operations * (unit_roundoff(compute) + probable_gamma(longest, unit_roundoff(wide)))
