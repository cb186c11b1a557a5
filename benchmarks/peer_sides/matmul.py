"""The machine's own matmul speed: what a training step could reach if it were nothing but matrix products."""

from __future__ import annotations

from collections.abc import Callable

SIZE = 2048
"""Rows and columns: large enough to be as fast as it gets, 24 MiB in bfloat16 for all three matrices."""


def matmul_flops(times: int) -> float:
    """Floating-point operations of `times` products."""
    return times * 2.0 * SIZE**3


def matmul() -> Callable[[], object]:
    """One product of bfloat16 matrices, as fast as PyTorch does it here. Local."""
    import torch

    a, b = (torch.randn(SIZE, SIZE).bfloat16() for _ in range(2))
    out = torch.empty(SIZE, SIZE, dtype=torch.bfloat16)
    return lambda: torch.mm(a, b, out=out)
