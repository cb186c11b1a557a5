"""How the kernel calls PyTorch's dtypes and reductions, and what each means for which type."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.distributed.distributed_c10d import ReduceOp

# in the order of the kernel's tables (reduce.h)
DTYPES = (
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
)
OPS = ("sum", "product", "min", "max", "band", "bor", "bxor")
BITWISE = ("band", "bor", "bxor")

DTYPE_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}
OP_CODES = {op: code for code, op in enumerate(OPS)}
OP_NAMES = {
    ReduceOp.RedOpType.SUM: "sum",
    ReduceOp.RedOpType.AVG: "avg",
    ReduceOp.RedOpType.PRODUCT: "product",
    ReduceOp.RedOpType.MIN: "min",
    ReduceOp.RedOpType.MAX: "max",
    ReduceOp.RedOpType.BAND: "band",
    ReduceOp.RedOpType.BOR: "bor",
    ReduceOp.RedOpType.BXOR: "bxor",
    ReduceOp.RedOpType.PREMUL_SUM: "premul_sum",
}


@lru_cache
def reduction(dtype: torch.dtype, op: str, ranks: int) -> tuple[int, int, int]:
    """The kernel's codes (dtype, op, divisor) of a reduction over `ranks`; avg is a sum divided at the end. Local.

    Raises TypeError for a dtype or an operation on it that has no meaning.
    """
    if dtype not in DTYPE_CODES:
        raise TypeError(f"no reduction of {_name(dtype)}; there is one of {', '.join(map(_name, DTYPES))}")
    base = "sum" if op == "avg" else op
    if base not in OP_CODES:
        raise TypeError(f"no reduction {op!r}; there are avg, {', '.join(OPS)}")
    if base in BITWISE and dtype.is_floating_point:
        raise TypeError(f"{op} has no meaning for {_name(dtype)}: it needs bool or integers")
    if op == "avg" and dtype == torch.bool:
        raise TypeError("avg has no meaning for bool")
    return DTYPE_CODES[dtype], OP_CODES[base], ranks if op == "avg" else 1


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
