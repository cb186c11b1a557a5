"""The kernel's collectives (kernel.c) in Python: what runs where there is no compiler, and what the kernel must equal.

Same memory, same order of additions, hence the same bits; only the meeting is MPI's, because Python has no memory
fences. Arguments are the kernel's: offsets in the payload, addresses as integers, codes from dtypes.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ryzen_mpi.comm.dtypes import DTYPES, OPS
from ryzen_mpi.comm.waiting import Absent

HEADER_BYTES = 4096
LINE_BYTES = 64


@lru_cache(maxsize=4096)
def slice_of(count: int, item_bytes: int, rank: int, ranks: int) -> slice:
    """The part of `count` elements that `rank` answers for: equal parts, rounded up to whole cache lines. Local."""
    line = LINE_BYTES // item_bytes
    lines = -(-count // line)
    part = -(-lines // ranks) * line
    begin = min(count, part * rank)
    return slice(begin, min(count, begin + part))


def tensor_at(address: int, count: int, dtype: torch.dtype) -> Tensor:
    """[count] elements at an address of this process; whoever owns the memory must keep it. Local."""
    if not count:
        return torch.empty(0, dtype=dtype)
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype)


def reduce(
    sources: Sequence[int], targets: Sequence[int], count: int, dtype_code: int, op_code: int, divisor: int
) -> None:
    """Element by element, sources in the given order; into every target. Addresses. Local."""
    dtype, op = DTYPES[dtype_code], OPS[op_code]
    total = None
    for address in sources:
        following = tensor_at(address, count, dtype)
        wide = following.to(_accumulator(dtype))
        total = wide.clone() if total is None else _combine(total, wide, op)
    if divisor != 1:
        total = _divide(total, divisor)
    for address in targets:
        tensor_at(address, count, dtype).copy_(total)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _divide(total: Tensor, divisor: int) -> Tensor:
    if total.is_floating_point():
        return total / divisor
    if total.dtype in _WITHOUT_ARITHMETIC:
        return torch.from_numpy(total.numpy() // np.uint64(divisor))
    return torch.div(total.to(torch.int64), divisor, rounding_mode="trunc")  # more ranks than an int8 can count


def _combine(total: Tensor, following: Tensor, op: str) -> Tensor:
    if total.dtype in _WITHOUT_ARITHMETIC:
        ours, theirs = total.numpy(), following.numpy()
        with np.errstate(over="ignore"):
            return torch.from_numpy(_NUMPY[op](ours, theirs))
    if total.dtype == torch.bool:
        op = {"sum": "bor", "max": "bor", "product": "band", "min": "band"}.get(op, op)
    return _TORCH[op](total, following)


_WITHOUT_ARITHMETIC = (torch.uint16, torch.uint32, torch.uint64)  # in torch; numpy has it
_TORCH = {
    "sum": torch.add,
    "product": torch.mul,
    "min": torch.minimum,
    "max": torch.maximum,
    "band": torch.bitwise_and,
    "bor": torch.bitwise_or,
    "bxor": torch.bitwise_xor,
}
_NUMPY = {
    "sum": np.add,
    "product": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}


class PlainRegion:
    """Collectives among the ranks that map the same segments; the methods are the kernel's, all collective.

    Args:
        rank: of this process among them.
        segments: addresses of all ranks' segments: a header page each, then `payload` bytes.
        meet: returns when all ranks have called it, with their writes visible; raises Absent.
        names: what the caller calls each rank, for errors.
    """

    def __init__(
        self,
        rank: int,
        segments: Sequence[int],
        payload: int,
        meet: Callable[[float], None],
        names: Sequence[int],
    ) -> None:
        self.names = names
        self.rank, self.ranks, self.payload = rank, len(segments), payload
        self.base = [address + HEADER_BYTES for address in segments]
        # of every rank: [arrivals, call of even number (3), call of odd number (3), failed]
        self.headers = [tensor_at(address, 8, torch.int64).numpy() for address in segments]
        self._meet_all, self.timeout_s = meet, 0.0
        self._calls = 0

    def set_timeout(self, seconds: float) -> None:
        self.timeout_s = seconds

    def give_up(self) -> None:
        self.headers[self.rank][7] = 1

    def barrier(self) -> None:
        self._meet_for(1, 0, 0)

    def all_reduce(self, offset: int, count: int, dtype: int, op: int, divisor: int) -> None:
        self._meet_for(2, count, offset, dtype, op, divisor)
        places = self._slices(offset, count, DTYPES[dtype].itemsize)
        reduce(places, places, self._mine(count, dtype), dtype, op, divisor)
        self._meet()

    def reduce_scatter(self, offset: int, count: int, dtype: int, op: int, divisor: int) -> None:
        self._meet_for(3, count, offset, dtype, op, divisor)
        places = self._slices(offset, count, DTYPES[dtype].itemsize)
        reduce(places, places[self.rank : self.rank + 1], self._mine(count, dtype), dtype, op, divisor)
        self._meet()

    def all_gather(self, offset: int, count: int, item_bytes: int) -> None:
        self._meet_for(4, count, offset, item_bytes)
        mine = slice_of(count, item_bytes, self.rank, self.ranks)
        for place in self._slices(offset, count, item_bytes):
            self._copy(place, self._slices(offset, count, item_bytes)[self.rank], (mine.stop - mine.start) * item_bytes)
        self._meet()

    def broadcast(self, offset: int, size: int, root: int) -> None:
        self._meet_for(5, size, offset, root)
        if self.rank != root:
            self._copy(self.base[self.rank] + offset, self.base[root] + offset, size)
        self._meet()

    def staged_all_reduce(self, source: int, target: int, count: int, dtype: int, op: int, divisor: int) -> None:
        item = DTYPES[dtype].itemsize
        for at, n in self._blocks(count, item, 1, 18, 0, dtype, op, divisor):
            self._copy(self.base[self.rank], source + at * item, n * item)
            self._meet()
            reduce(self.base, [target + at * item], n, dtype, op, divisor)
            self._meet()

    def staged_reduce_scatter(self, source: int, target: int, count: int, dtype: int, op: int, divisor: int) -> None:
        item = DTYPES[dtype].itemsize
        for at, n in self._blocks(count, item, self.ranks, 19, 0, dtype, op, divisor):
            self._copy_parts(source, count * item, at * item, n * item)
            self._meet()
            parts = [base + self.rank * n * item for base in self.base]
            reduce(parts, [target + at * item], n, dtype, op, divisor)
            self._meet()

    def staged_all_gather(self, source: int, target: int, size: int) -> None:
        for at, n in self._blocks(size, 1, 1, 20, 0):
            self._copy(self.base[self.rank], source + at, n)
            self._meet()
            for rank, base in enumerate(self.base):
                self._copy(target + rank * size + at, base, n)
            self._meet()

    def staged_broadcast(self, data: int, size: int, root: int) -> None:
        for at, n in self._blocks(size, 1, 1, 21, root):
            if self.rank == root:
                self._copy(self.base[root], data + at, n)
            self._meet()
            if self.rank != root:
                self._copy(data + at, self.base[root], n)
            self._meet()

    def staged_all_to_all(self, source: int, target: int, size: int) -> None:
        for at, n in self._blocks(size, 1, self.ranks, 24, 0):
            self._copy_parts(source, size, at, n)
            self._meet()
            for rank, base in enumerate(self.base):
                self._copy(target + rank * size + at, base + self.rank * n, n)
            self._meet()

    def _blocks(self, count: int, item_bytes: int, parts: int, kind: int, place: int, *how: int):
        """(start, length) of what fits the payload at a time, after all ranks have come for the same."""
        whole = max(1, self.payload // parts // item_bytes)
        if count:
            self._meet_for(kind, count, place, *how)
        for at in range(0, count, whole):
            yield at, min(whole, count - at)

    def _copy_parts(self, source: int, stride: int, at: int, size: int) -> None:
        for rank in range(self.ranks):
            self._copy(self.base[self.rank] + rank * size, source + rank * stride + at, size)

    def _slices(self, offset: int, count: int, item_bytes: int) -> list[int]:
        begin = slice_of(count, item_bytes, self.rank, self.ranks).start * item_bytes
        return [base + offset + begin for base in self.base]

    def _mine(self, count: int, dtype: int) -> int:
        mine = slice_of(count, DTYPES[dtype].itemsize, self.rank, self.ranks)
        return mine.stop - mine.start

    @staticmethod
    def _copy(target: int, source: int, size: int) -> None:
        if target != source:
            ctypes.memmove(target, source, size)

    def _meet(self) -> None:
        self.headers[self.rank][0] += 1
        arrived = self.headers[self.rank][0]
        try:
            self._meet_all(self.timeout_s)
        except Absent as absent:
            self.give_up()
            missing = [rank for rank, header in enumerate(self.headers) if header[0] < arrived]
            peer = absent.peer if absent.peer is not None else (missing or [None])[0]
            raise Absent(absent.reason, None if peer is None else self.names[peer]) from None

    def _meet_for(self, kind: int, count: int, place: int, *how: int) -> None:
        call = [sum(value << (8 * i) for i, value in enumerate((kind, *how))), count, place]
        word = slice(1, 4) if self._calls % 2 == 0 else slice(4, 7)
        self._calls += 1
        self.headers[self.rank][word] = call
        self._meet()
        for peer, header in enumerate(self.headers):
            if list(header[word]) != call:
                self.give_up()
                raise Absent("mismatch", self.names[peer])
