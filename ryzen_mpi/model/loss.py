"""The output head and the cross-entropy in one operation, a chunk of rows at a time.

A vocabulary of 65536 over 4096 tokens would be a gigabyte of float32 logits a sample; here at most `CHUNK_ELEMENTS`
logits exist at once, or as many as the head's own gradient has elements, and the gradients of the hidden states and of
the head are formed while they do.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ryzen_mpi.model.lookup import Lookup

CHUNK_ELEMENTS = 1 << 22
"""Logits formed at once (16 MiB in float32): smaller chunks make the matmuls of small vocabularies too flat."""


LEAST_ROWS = 256
"""Rows of a chunk however large the vocabulary: each chunk reads and writes a whole head's gradient."""

TILE_ELEMENTS = 1 << 18
"""Elements an elementwise pass works on at a time (1 MiB in float32: half a core's second-level cache)."""


def chunk_rows(vocabulary: int, width: int) -> int:
    """Rows whose logits are formed at once: with as many as the width, they are no larger than the head's gradient."""
    return max(LEAST_ROWS, CHUNK_ELEMENTS // vocabulary, width)


def head_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, lookup: Lookup | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of softmax(hidden weightᵀ) against `targets`, summed over rows and multiplied by `scale`.

    Args:
        hidden: [rows, width].
        weight: [vocabulary, width].
        targets: [rows], token ids.
        scale: usually 1 / (tokens of the global batch).
        lookup: that of a tied embedding, which the hidden states came from: it takes the weight's gradient over.

    Returns: the scaled loss (scalar, float32 or wider, in nats) and the number of rows whose target has the largest
        logit (a tie counts as right; under bfloat16 ties are not rare, so accuracy is measured on held-out text).
    """
    return _HeadLoss.apply(hidden, weight, targets, scale, lookup)


def naive_head_loss(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The same by the book, with all logits at once."""
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(logits, targets, reduction="sum") * scale
    right = logits.gather(1, targets[:, None]).squeeze(1) >= logits.amax(1)
    return loss, right.sum()


def _softmax_tiles(logits: Tensor, targets: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and right predictions; overwrites `logits` with softmax - one-hot, its derivative.

    Tile by tile, so that the passes over a tile find it in the core's cache. With z the sum of exp(logit - largest),
    the largest probability is 1 / z, which gives log z without a pass of its own.
    """
    loss = torch.zeros((), dtype=wide, device=logits.device)
    right = torch.zeros((), dtype=torch.int64, device=logits.device)
    rows = max(1, TILE_ELEMENTS // logits.shape[1])
    narrow = logits.dtype != wide
    scratch = logits.new_empty(min(rows, logits.shape[0]) if narrow else 0, logits.shape[1], dtype=wide)
    for tile, t in zip(logits.split(rows), targets.split(rows), strict=True):
        largest, of_target = tile.amax(1, keepdim=True), tile.gather(1, t)
        right += (of_target >= largest).sum()
        p = scratch[: tile.shape[0]].copy_(tile) if narrow else tile
        torch.softmax(p, 1, out=p)
        log_z = -p.amax(1, keepdim=True).log()
        loss += (log_z + largest.to(wide) - of_target.to(wide)).sum()
        p.scatter_add_(1, t, torch.full_like(log_z, -1.0))
        if narrow:
            tile.copy_(p)
    return loss, right


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, lookup: Lookup | None
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        rows = chunk_rows(*weight.shape)
        training = any(ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(hidden) if training else None
        d_weight: Tensor | None = None
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        right = torch.zeros((), dtype=torch.int64, device=hidden.device)
        for start in range(0, hidden.shape[0], rows):
            h, t = hidden[start : start + rows], targets[start : start + rows, None]
            logits = torch.mm(h, weight.t())
            part, hits = _softmax_tiles(logits, t, wide)
            loss, right = loss + part, right + hits
            if training:
                torch.mm(logits, weight, out=d_hidden[start : start + rows])
            if ctx.needs_input_grad[1]:
                product = torch.mm(logits.t(), h)
                if d_weight is None:  # with one chunk there is nothing to sum, so nothing to widen
                    d_weight = product if rows >= hidden.shape[0] else product.to(wide)
                else:
                    d_weight += product
        if training:
            # the scale goes onto the two small products, not onto the logits
            d_weight = None if d_weight is None else d_weight.mul_(scale).to(weight.dtype)
            ctx.save_for_backward(d_hidden.mul_(scale), d_weight)
        ctx.lookup = lookup
        ctx.mark_non_differentiable(right)
        return loss.mul_(scale), right

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        if grad.item() != 1.0:  # the training step calls backward on the loss itself: nothing to multiply
            d_hidden = d_hidden * grad.to(d_hidden.dtype)
            d_weight = None if d_weight is None else d_weight * grad.to(d_weight.dtype)
        if ctx.lookup is not None and d_weight is not None:
            ctx.lookup.head_gradient, d_weight = d_weight, None
        return d_hidden, d_weight, None, None, None


@torch.no_grad()
def head_score(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy in nats (float64) and exactly counted right predictions, from float32 logits, in chunks.

    Args as for `head_loss`. For held-out text, where figures count more than speed.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    rows = max(1, CHUNK_ELEMENTS // weight.shape[0])
    weight = weight.to(wide)
    loss = torch.zeros((), dtype=torch.float64)
    right = torch.zeros((), dtype=torch.int64)
    for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = F.linear(h.to(wide), weight)
        loss += F.cross_entropy(logits, t, reduction="sum").double()
        right += (logits.argmax(1) == t).sum()
    return loss, right
