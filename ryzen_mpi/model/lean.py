"""Linear layers behind a cheap function, which keep the function's input for backward instead of its result.

The result, which only the weight's gradient needs, is formed again: a pass over memory, where a block of a transformer
would otherwise keep a third of its activations twice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEAN_FROM = 512
"""Least width of a model for which `takes_lean`. What it costs is in inverse proportion to the width: 2 % of a step at
256, 0.7 % at 768."""

EPSILON = 1e-5
"""Of layer normalisation: PyTorch's default."""


def takes_lean(width: int) -> bool:
    """Whether a model of that width saves memory rather than passes over it."""
    return width >= LEAN_FROM


def norm_linear(x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
    """Layer normalisation of `x` [..., width] with scale `norm` [width], times `weight` [outputs, width] transposed."""
    return _NormLinear.apply(x, norm, weight)


def gelu_linear(x: Tensor, weight: Tensor) -> Tensor:
    """GELU (Hendrycks and Gimpel, 2016) of `x` [..., width], times `weight` [outputs, width] transposed."""
    return _GeluLinear.apply(x, weight)


def naive_norm_linear(x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
    """The same, keeping everything."""
    return F.linear(F.layer_norm(x, norm.shape, norm, eps=EPSILON), weight)


def naive_gelu_linear(x: Tensor, weight: Tensor) -> Tensor:
    """The same, keeping everything."""
    return F.linear(F.gelu(x), weight)


def _normed(x: Tensor, norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Result, mean and reciprocal deviation of layer normalisation."""
    return torch.ops.aten.native_layer_norm(x, norm.shape, norm, None, EPSILON)


def _weight_gradient(grad: Tensor, inputs: Tensor) -> Tensor:
    return torch.mm(grad.flatten(0, -2).t(), inputs.flatten(0, -2))


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, norm, weight)
        return F.linear(_normed(x, norm)[0], weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, weight = ctx.saved_tensors
        wants_x, wants_norm, wants_weight = ctx.needs_input_grad
        out, mean, deviation = _normed(x, norm)
        d_weight = _weight_gradient(grad, out) if wants_weight else None
        del out
        if not wants_x and not wants_norm:
            return None, None, d_weight
        wanted = [wants_x, wants_norm, False]
        back = torch.ops.aten.native_layer_norm_backward
        d_x, d_norm, _ = back(grad @ weight, x, norm.shape, mean, deviation, norm, None, wanted)
        return d_x, d_norm, d_weight


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        d_weight = _weight_gradient(grad, F.gelu(x)) if wants_weight else None
        d_x = torch.ops.aten.gelu_backward(grad @ weight, x) if wants_x else None
        return d_x, d_weight
