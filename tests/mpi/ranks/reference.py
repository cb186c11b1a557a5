"""What collectives must give, computed by every rank for itself: all inputs follow from a seed, nothing is sent."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
DTYPES = (*FLOATS, torch.bool, *SIGNED, *UNSIGNED)
OPS = ("sum", "product", "min", "max", "avg", "band", "bor", "bxor")
LAYOUTS = ("contiguous", "transposed", "strided", "offset")


def has_meaning(dtype: torch.dtype, op: str) -> bool:
    if dtype.is_floating_point:
        return op not in ("band", "bor", "bxor")
    return dtype != torch.bool or op != "avg"


def small(seed: int, rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Whole numbers so small that any order of additions gives the same, products of four fit bfloat16."""
    random = np.random.default_rng((seed, rank))
    low = 0 if dtype in UNSIGNED or dtype == torch.bool else -4
    values = random.integers(low, 2 if dtype == torch.bool else 5, count)
    return torch.from_numpy(values).to(dtype)


def wild(seed: int, rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Any bits: subnormals, infinities, NaN, integers that overflow."""
    random = np.random.default_rng((seed, rank, 7))
    if dtype == torch.bool:
        return torch.from_numpy(random.integers(0, 2, count).astype(bool))
    bits = torch.from_numpy(random.integers(0, 256, count * dtype.itemsize).astype(np.uint8)).view(dtype)
    if dtype.is_floating_point and count:
        mask = torch.from_numpy(random.random(count))
        ordinary = torch.from_numpy(random.standard_normal(count)).to(dtype)
        tiny = (torch.from_numpy(random.integers(-3, 4, count)).double() * torch.finfo(dtype).smallest_normal / 4).to(
            dtype
        )
        bits = torch.where(mask < 0.5, ordinary, torch.where(mask < 0.7, tiny, bits))
        bits[mask > 0.99] = float("inf")
    return bits.clone()


def reduced(parts: Sequence[torch.Tensor], op: str) -> torch.Tensor:
    """`parts` reduced in their order: 16-bit floats in float32, integers modulo their width, avg cut towards zero."""
    dtype = parts[0].dtype
    if dtype in (torch.bfloat16, torch.float16):
        return _fold([part.float() for part in parts], op).to(dtype)
    if dtype == torch.bool:
        name = {"sum": "bor", "max": "bor", "product": "band", "min": "band"}.get(op, op)
        return _fold(list(parts), name)
    return _fold(list(parts), op)


def _fold(parts: list[torch.Tensor], op: str) -> torch.Tensor:
    functions = {
        **dict(sum=np.add, avg=np.add, product=np.multiply, min=np.minimum, max=np.maximum),
        **dict(band=np.bitwise_and, bor=np.bitwise_or, bxor=np.bitwise_xor),
    }
    total = parts[0].numpy()
    with np.errstate(all="ignore"):
        for part in parts[1:]:
            total = functions[op](total, part.numpy())
        if op == "avg" and parts[0].is_floating_point():
            total = total / total.dtype.type(len(parts))
        elif op == "avg":
            wide = [int(value) for value in total.ravel()]
            cut = [abs(value) // len(parts) * (1 if value >= 0 else -1) for value in wide]
            total = np.array(cut, dtype=total.dtype).reshape(total.shape)
    return torch.from_numpy(np.ascontiguousarray(total)).reshape(parts[0].shape)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to the last bit and sign of zero; any NaN equals any NaN."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    one, other = one.flatten(), other.flatten()
    if one.dtype.is_floating_point:
        if not torch.equal(one.isnan(), other.isnan()):
            return False
        one, other = one[~one.isnan()], other[~other.isnan()]
    return _bytes(one) == _bytes(other)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def digest(tensor: torch.Tensor) -> str:
    """A hash of every bit."""
    return hashlib.sha256(_bytes(tensor.flatten())).hexdigest()


def laid_out(values: torch.Tensor, layout: str) -> torch.Tensor:
    """A tensor with the elements of `values` (one dimension) whose memory lies as `layout` says."""
    count = values.numel()
    if layout == "transposed":
        rows = next((n for n in (3, 2) if count % n == 0), 1)
        return values.view(rows, count // rows).t().contiguous().t()
    if layout == "strided":
        return torch.stack([values, values], dim=1).contiguous()[:, 0]
    if layout == "offset":
        return torch.cat([values[:1], values])[1 if count else 0 :]
    return values.clone()
