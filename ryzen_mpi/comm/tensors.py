"""Tensors as torch.distributed hands them over, made into what can be sent, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.comm.dtypes import OP_NAMES


def listed(tensors: Any) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def dense(tensor: Tensor) -> Tensor:
    """`tensor` itself where its memory can be used as it is, else a copy."""
    if tensor.layout is not torch.strided or not tensor.is_cpu:
        raise TypeError(f"only dense tensors in main memory can be sent, not {tensor.layout} on {tensor.device}")
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.detach().resolve_conj().resolve_neg()
    return tensor if tensor.is_contiguous() else tensor.detach().contiguous()


def back(data: Tensor, tensor: Tensor) -> None:
    """Carries a result home where it was made in a copy."""
    if data is not tensor:
        tensor.detach().copy_(data.view(tensor.shape))


def joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([dense(tensor).view(-1) for tensor in tensors])


def elements(splits: Any, tensor: Tensor, ranks: int) -> list[int]:
    """Elements for each rank out of splits in rows, as PyTorch gives them; none given means equal parts."""
    rows = tensor.shape[0] if tensor.ndim else 1
    row = tensor.numel() // rows if rows else 0
    if not splits:
        if rows % ranks:
            raise ValueError(f"{rows} rows cannot be split equally among {ranks} ranks")
        splits = [rows // ranks] * ranks
    if sum(splits) != rows or len(splits) != ranks:
        raise ValueError(f"splits {list(splits)} do not add up to {rows} rows over {ranks} ranks")
    return [count * row for count in splits]


def operation(opts: Any) -> tuple[str, Any]:
    """The reduction's name and what to multiply by first (or None)."""
    reduce_op = dist.ReduceOp.SUM if opts is None else getattr(opts, "reduceOp", opts)
    if reduce_op == dist.ReduceOp.SUM:  # nearly always
        return "sum", None
    kind = reduce_op.op if isinstance(reduce_op, dist.ReduceOp) else reduce_op
    name = OP_NAMES.get(kind)
    if name is None:
        raise TypeError(f"reduction {reduce_op} is not known; there are {', '.join(OP_NAMES.values())}")
    return ("sum", reduce_op.__getstate__()[1]) if name == "premul_sum" else (name, None)
