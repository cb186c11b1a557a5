"""Are the copies of a vector on all ranks the same, bit for bit, and if not: which rank, which element, how far off?

What is compared travels over the start-up exchange as hashes and integers, not over the process group whose results
are being looked at.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ryzen_mpi.cluster.world import World
from ryzen_mpi.training.flat import Layout
from ryzen_mpi.training.ulp import bits, ulp_distances

PIECE = 1024
"""Elements hashed together when a difference is looked for."""
MOST_PIECES = 4096
MOST_SHOWN = 8
"""Pieces of a rank that are looked into; where more differ, counts are "at least"."""


@dataclass(frozen=True)
class Difference:
    """How the copy of `rank` differs from that of rank `other`, which most ranks have.

    Attributes:
        element: the first that differs; value, expected: there and on rank `other`.
        ulp: largest distance, in units in the last place, of the elements looked into.
        elements: how many of them differ; `more`: not all were looked into.
    """

    rank: int
    other: int
    element: int
    value: float
    expected: float
    ulp: int
    elements: int
    more: bool = False

    def told(self, what: str, step: int, place: str) -> str:
        """A sentence for a person: `what` is the vector, `place` the element's name."""
        count = f"{'at least ' * self.more}{self.elements} elements, up to {self.ulp} ulp"
        return (
            f"rank {self.rank} differs from rank {self.other} at step {step} in {what} element {self.element} "
            f"({place}): {self.value!r} instead of {self.expected!r}; {count}"
        )


def fingerprint(vector: Tensor) -> str:
    """A hash of every bit. Local."""
    return hashlib.blake2b(bits(vector).view(torch.uint8).numpy(), digest_size=16).hexdigest()


def majority(prints: Sequence[str]) -> int:
    """The lowest rank that has what most have. Pure."""
    most = max(Counter(prints).items(), key=lambda item: (item[1], -list(prints).index(item[0])))[0]
    return list(prints).index(most)


def differences(world: World, vector: Tensor) -> list[Difference]:
    """How ranks differ in `vector`, which should be the same on all: a row a rank that does, on all ranks alike.

    Collective. `vector` is flat and of the same type and length on all ranks.
    """
    prints = world.exchange.allgather(fingerprint(vector))
    if len(set(prints)) == 1:
        return []
    size = max(PIECE, -(-vector.numel() // MOST_PIECES))
    pieces = vector.split(size)
    hashes = world.exchange.allgather([fingerprint(piece) for piece in pieces])
    other = majority(prints)
    wrong = {
        rank: [number for number, both in enumerate(zip(mine, hashes[other], strict=True)) if both[0] != both[1]]
        for rank, mine in enumerate(hashes)
        if prints[rank] != prints[other]
    }
    wanted = sorted({number for numbers in wrong.values() for number in numbers[:MOST_SHOWN]})
    told = world.exchange.allgather({str(n): bits(pieces[n]).tolist() for n in wanted})
    found = []
    for rank, numbers in wrong.items():
        theirs = [_values(told[rank][str(n)], vector.dtype) for n in numbers[:MOST_SHOWN]]
        good = [_values(told[other][str(n)], vector.dtype) for n in numbers[:MOST_SHOWN]]
        found.append(_difference(rank, other, [n * size for n in numbers], theirs, good))
    return found


def _values(integers: list[int], dtype: torch.dtype) -> Tensor:
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    return torch.tensor(integers, dtype=kind).view(dtype)


def _difference(rank: int, other: int, starts: list[int], theirs: list[Tensor], good: list[Tensor]) -> Difference:
    first = (bits(theirs[0]) != bits(good[0])).nonzero()[0].item()
    ulp = max(int(ulp_distances(a, b).max()) for a, b in zip(theirs, good, strict=True))
    count = sum(int((bits(a) != bits(b)).sum()) for a, b in zip(theirs, good, strict=True))
    value, expected = float(theirs[0][first]), float(good[0][first])
    return Difference(rank, other, starts[0] + int(first), value, expected, ulp, count, len(starts) > len(theirs))


def place_of(layout: Layout, element: int) -> str:
    """The parameter that an element of the flat vectors belongs to, and where in it. Pure."""
    for place in layout.places:
        if place.offset <= element < place.end:
            return f"{place.name}[{element - place.offset}]"
    return "padding between parameters"
