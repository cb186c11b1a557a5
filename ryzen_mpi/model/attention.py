"""Causal self-attention: plain batched matmuls for short sequences, PyTorch's fused kernel for long ones.

On CPUs the fused kernel's backward is slow for short sequences: in bfloat16 it takes 4.3 times as long as the batched
form at 128 tokens, 1.7 times at 512 and 1.1 times at 1024, where the batched form's length x length matrices begin to
fill the memory. `benchmarks/attention.py` measures it, `BATCHED_UP_TO` records it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BATCHED_UP_TO = {"bfloat16": 512, "float32": 128, "float64": 128}
"""Longest sequence for which `auto` takes the batched form, by precision."""


def takes_batched(length: int, dtype: str, form: str = "auto") -> bool:
    """Whether `form` means the batched one for sequences of `length` tokens in precision `dtype`."""
    return form == "batched" or (form == "auto" and length <= BATCHED_UP_TO[dtype])


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
    """Attention with every head's matrices in one batched product, and nothing kept but q, k, v and the softmax P.

    With dP = dO Vᵀ and dS = P * (dP - rowsum(dP * P)): dV = Pᵀ dO, dQ = dS K / √d, dK = dSᵀ Q / √d.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        batch, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        head_width = width // heads
        packed = qkv.view(batch, length, 3, heads, head_width).permute(2, 0, 3, 1, 4)
        q, k, v = packed.reshape(3, batch * heads, length, head_width)
        mask = torch.full((length, length), -math.inf, dtype=qkv.dtype, device=qkv.device).triu_(1)
        p = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=head_width**-0.5)
        torch.softmax(p, -1, out=p)
        ctx.save_for_backward(q, k, v, p)
        ctx.shape = (batch, heads, length, head_width)
        out = torch.bmm(p, v)
        return out.view(batch, heads, length, head_width).transpose(1, 2).reshape(batch, length, width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        q, k, v, p = ctx.saved_tensors
        batch, heads, length, head_width = ctx.shape
        scale = head_width**-0.5
        do = grad.view(batch, length, heads, head_width).transpose(1, 2).reshape(batch * heads, length, head_width)
        out = grad.new_empty(3, batch * heads, length, head_width)
        torch.bmm(p.transpose(1, 2), do, out=out[2])
        dp = torch.bmm(do, v.transpose(1, 2))
        ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
        torch.bmm(ds, k, out=out[0])
        torch.bmm(ds.transpose(1, 2), q, out=out[1])
        out[:2].mul_(scale)
        packed = out.view(3, batch, heads, length, head_width).permute(1, 3, 0, 2, 4)
        return packed.reshape(batch, length, 3 * heads * head_width), None
