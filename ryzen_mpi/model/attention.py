"""Causal self-attention: batched matrix products of blocks of queries, or PyTorch's fused kernel.

On CPUs the fused kernel's backward is slow: in bfloat16 the blocked form is several times as fast for short sequences
and still ahead for thousands of tokens. It multiplies a block of queries with the keys up to its end alone, which is a
little more than half of all of them. `benchmarks/attention.py` measures it, `BATCHED_UP_TO` records it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BATCHED_UP_TO = {"bfloat16": 2048, "float32": 1024, "float64": 1024}
"""Longest sequence for which `auto` takes the batched form, by precision."""

BLOCK = 128
"""Queries of a block: fewer make the products flat, more multiply what is masked."""

KEPT_UP_TO = 512
"""Longest sequence whose softmax is kept for backward; it grows with the square, so that of longer ones is formed
again, which takes a sixth of attention's time."""


def takes_batched(length: int, dtype: str, form: str = "auto") -> bool:
    """Whether `form` means the batched one for sequences of `length` tokens in precision `dtype`."""
    return form == "batched" or (form == "auto" and length <= BATCHED_UP_TO[dtype])


def blocks(length: int) -> Iterator[tuple[int, int]]:
    """[begin, end) of the blocks of queries."""
    return ((begin, min(length, begin + BLOCK)) for begin in range(0, length, BLOCK))


def kept_scores(length: int) -> int:
    """Elements of the softmax kept for backward, of one head and sequence."""
    return sum((end - begin) * end for begin, end in blocks(length)) if length <= KEPT_UP_TO else 0


def causal_attention(qkv: Tensor, heads: int, form: str = "auto") -> Tensor:
    """Softmax(Q Kᵀ / √d + causal mask) V for every head (Vaswani et al. 2017, section 3.2).

    Args:
        qkv: [batch, length, 3 x width], queries, keys and values side by side.
        heads: number of heads; divides the width.
        form: `batched`, `fused` or `auto`; the same figures up to rounding.

    Returns: [batch, length, width].
    """
    if takes_batched(qkv.shape[1], str(qkv.dtype).removeprefix("torch."), form):
        return _Batched.apply(qkv, heads)
    q, k, v = _split_heads(qkv, heads)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2).reshape(qkv.shape[0], qkv.shape[1], -1)


def naive_causal_attention(qkv: Tensor, heads: int) -> Tensor:
    """The same by the book, for tests."""
    q, k, v = _split_heads(qkv, heads)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    ahead = torch.ones(qkv.shape[1], qkv.shape[1], dtype=torch.bool, device=qkv.device).triu(1)
    out = scores.masked_fill(ahead, -math.inf).softmax(-1) @ v
    return out.transpose(1, 2).reshape(qkv.shape[0], qkv.shape[1], -1)


def _split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views [batch, heads, length, head width] of queries, keys and values."""
    batch, length, width = qkv.shape
    q, k, v = qkv.view(batch, length, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    return q, k, v


class _Batched(torch.autograd.Function):
    """Attention with every head's matrices in one batched product a block, and nothing kept but q, k, v, and P.

    With dP = dO Vᵀ and dS = P * (dP - rowsum(dP * P)): dV = Pᵀ dO, dQ = dS K / √d, dK = dSᵀ Q / √d.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        batch, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        head_width = width // heads
        packed = qkv.view(batch, length, 3, heads, head_width).permute(2, 0, 3, 1, 4)
        q, k, v = packed.reshape(3, batch * heads, length, head_width)
        out, kept, mask = torch.empty_like(q), [], _mask(q)
        for begin, end in blocks(length):
            p = _softmax(q[:, begin:end], k[:, :end], mask)
            out[:, begin:end] = torch.bmm(p, v[:, :end])
            if length <= KEPT_UP_TO:
                kept.append(p)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.shape = (batch, heads, length, head_width)
        return out.view(batch, heads, length, head_width).transpose(1, 2).reshape(batch, length, width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        batch, heads, length, head_width = ctx.shape
        do = grad.view(batch, length, heads, head_width).transpose(1, 2).reshape(batch * heads, length, head_width)
        dq, dk, dv = out = grad.new_empty(3, batch * heads, length, head_width)
        mask = _mask(q)
        # the last block first: it has all keys, so that the others are added to what it leaves
        for number, (begin, end) in reversed(list(enumerate(blocks(length)))):
            rows, d = q[:, begin:end], do[:, begin:end]
            p = kept[number] if kept else _softmax(rows, k[:, :end], mask)
            dp = torch.bmm(d, v[:, :end].transpose(1, 2))
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            dq[:, begin:end] = torch.bmm(ds, k[:, :end])
            for target, product in ((dk, (ds.transpose(1, 2), rows)), (dv, (p.transpose(1, 2), d))):
                if end == length:
                    torch.bmm(*product, out=target)
                else:
                    target[:, :end] += torch.bmm(*product)
        out[:2].mul_(head_width**-0.5)
        packed = out.view(3, batch, heads, length, head_width).permute(1, 3, 0, 2, 4)
        return packed.reshape(batch, length, 3 * heads * head_width), None


def _mask(q: Tensor) -> Tensor:
    """[block, length + block]: what a block adds to its scores are as many of the last columns as it has keys."""
    length = q.shape[1]
    size = min(BLOCK, length)
    mask = q.new_zeros(size, length + size)
    mask[:, length:] = torch.full((size, size), -math.inf, dtype=q.dtype).triu_(1)
    return mask


def _softmax(rows: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """P of some queries, of all heads; the keys end where the queries end."""
    count, end = rows.shape[1], keys.shape[1]
    last = mask.shape[1] - (mask.shape[0] - count)  # a last block may have fewer queries
    ahead = mask[:count, last - end : last]
    p = torch.baddbmm(ahead, rows, keys.transpose(1, 2), alpha=rows.shape[2] ** -0.5)
    return torch.softmax(p, -1, out=p)
