"""The embedding's rows for the tokens of a batch, and a gradient that a tied head and the embedding form in one place.

PyTorch's own would make a second gradient of the whole vocabulary, nearly all of it zeros, and add it to the head's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Lookup:
    """One batch's way through an embedding: called once, and `head_gradient` set before its backward, or never.

    Attributes:
        head_gradient: of the same weights as a tied head; the rows' gradients are added into it.
    """

    head_gradient: Tensor | None = None

    def __call__(self, weight: Tensor, tokens: Tensor) -> Tensor:
        """Rows of `weight` [vocabulary, width] for `tokens` [...]: [..., width]."""
        return _Lookup.apply(weight, tokens, self)


def add_rows(target: Tensor, rows: Tensor, values: Tensor) -> None:
    """target[row] += value for every row of `rows` [n] and of `values` [n, width].

    A frequent token's many small gradients are summed in float32 or wider, and rounded once.
    """
    wide = torch.promote_types(values.dtype, torch.float32)
    unique, place = rows.unique(return_inverse=True)
    sums = target[unique].to(wide).index_add_(0, place, values.to(wide))
    target.index_copy_(0, unique, sums.to(target.dtype))


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor, lookup: Lookup) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.lookup, ctx.shape = lookup, weight.shape
        return F.embedding(tokens, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (tokens,) = ctx.saved_tensors
        found, ctx.lookup.head_gradient = ctx.lookup.head_gradient, None
        gradient = grad.new_zeros(ctx.shape) if found is None else found
        add_rows(gradient, tokens.flatten(), grad.flatten(0, -2))
        return gradient, None, None
