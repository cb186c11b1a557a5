"""All-reduces whose results are known beforehand, to the last bit: any other result is a corruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.cluster.world import World
from ryzen_mpi.comm.arena import shared_memory
from ryzen_mpi.training.ulp import bits, ulp_distances

SIZES = (1, 2, 3, 5, 17, 64, 255, 1000, 4097, 65_536, 300_001, 1_048_577)
"""Odd and even, below and above what changes the algorithm, with and without a rest."""
SIGNIFICAND = {torch.float32: 24, torch.float64: 53, torch.bfloat16: 8}
SEED = 20_240_607
KEPT = 20


@dataclass
class Tally:
    """What was verified on this rank.

    Attributes:
        reductions, elements, bytes: how many.
        wrong: elements that were not what they had to be.
        told: the first of each reduction, as a sentence.
    """

    reductions: int = 0
    elements: int = 0
    bytes: int = 0
    wrong: int = 0
    told: list[str] = field(default_factory=list)


def verify(world: World, repeats: int, sizes: tuple[int, ...] = SIZES) -> Tally:
    """`repeats` all-reduces of every size and type, in ordinary memory and in the arena where there is one.

    Collective. Returns this rank's tally.
    """
    tally = Tally()
    for where, vector in _memories(sizes, world.size):
        for turn in range(repeats):
            mine, expected = operands(world.rank, world.size, turn, vector.numel(), vector.dtype)
            vector.copy_(mine)
            dist.all_reduce(vector)
            _compare(tally, world.rank, where, turn, vector, expected)
    return tally


def _memories(sizes: tuple[int, ...], ranks: int) -> Iterator[tuple[str, Tensor]]:
    """What is reduced, by where it lies. Types whose significand cannot hold the sum of so many ranks are left out."""
    for dtype in (dtype for dtype, width in SIGNIFICAND.items() if 2**width >= ranks):
        for size in sizes:
            yield "ordinary memory", torch.zeros(size, dtype=dtype)
    make = shared_memory(None)
    if make is not None:  # where training keeps its gradients
        for dtype in (torch.float32, torch.float64):
            room = make(max(sizes), dtype)
            for size in sizes:
                yield "shared memory", room[:size]


def operands(rank: int, ranks: int, turn: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """This rank's values and the sum over all ranks, exactly. Pure.

    Whole numbers of as many bits as the type has, less those the sum needs, times a power of two of their own: every
    order of additions is exact, and all bits of significand and exponent are used.
    """
    largest = 2 ** SIGNIFICAND[dtype] // ranks
    assert largest >= 1, f"{ranks} ranks do not add up exactly in {dtype}"
    numbers = [
        np.random.default_rng((SEED, turn, size, other)).integers(-largest, largest, size, endpoint=True)
        for other in range(ranks)
    ]
    powers = np.random.default_rng((SEED, turn, size)).integers(-20, 20, size)

    def scaled(whole: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ldexp(whole.astype(np.float64), powers)).to(dtype)

    return scaled(numbers[rank]), scaled(np.sum(numbers, axis=0))


def _compare(tally: Tally, rank: int, where: str, turn: int, result: Tensor, expected: Tensor) -> None:
    tally.reductions += 1
    tally.elements += result.numel()
    tally.bytes += result.numel() * result.element_size()
    ulp = ulp_distances(result, expected)
    wrong = int((ulp != 0).sum())
    if not wrong:
        return
    tally.wrong += wrong
    first = int(ulp.nonzero()[0])
    width = 8 * result.element_size()
    flipped = (int(bits(result[first : first + 1])) ^ int(bits(expected[first : first + 1]))) & ((1 << width) - 1)
    if len(tally.told) < KEPT:
        tally.told.append(
            f"rank {rank}: all-reduce {turn} of {result.numel()} {result.dtype} in {where}: element {first} is "
            f"{float(result[first])!r} instead of {float(expected[first])!r}, {flipped.bit_count()} of its bits differ "
            f"(mask {flipped:#x}); {wrong} elements are wrong"
        )
