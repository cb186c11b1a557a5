"""How alike the links between three and more nodes are. Pure arithmetic on matrices [from, to]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

Triangle = tuple[int, int, int]


def both_ways(matrix: Any) -> np.ndarray:
    """[nodes, nodes], the mean of both directions of every link."""
    values = np.asarray(matrix, dtype=float)
    return (values + values.T) / 2


def triangles(matrix: Any) -> Iterator[tuple[Triangle, float]]:
    """Every three nodes with the largest deviation of one of their three links from the links' mean, as a share."""
    links = both_ways(matrix)
    for a, b, c in combinations(range(len(links)), 3):
        sides = np.array([links[a, b], links[b, c], links[a, c]])
        yield (a, b, c), float(np.max(np.abs(sides / sides.mean() - 1)))


def detours(latency: Any, slack: float) -> list[tuple[int, int, int, float]]:
    """(from, to, over, how many times slower) where a way over a third node is quicker than the direct one.

    `slack`: by what factor at least. A network that routes by the shortest way has none.
    """
    links, found = both_ways(latency), []
    for a, b in combinations(range(len(links)), 2):
        ways = [(links[a, c] + links[c, b], c) for c in range(len(links)) if c not in (a, b)]
        least, over = min(ways)
        if links[a, b] > slack * least:
            found.append((a, b, over, float(links[a, b] / least)))
    return found


def slow_links(speed: Any, share: float) -> list[tuple[int, int, float]]:
    """(from, to, share of the median) of directions below `share` of the median direction."""
    values = np.asarray(speed, dtype=float)
    usual = float(np.median(values[~np.eye(len(values), dtype=bool)]))
    return [(a, b, float(values[a, b] / usual)) for a, b in np.argwhere(values < share * usual).tolist() if a != b]


def least_sum(rounds: Sequence[Sequence[float]]) -> int:
    """Number of the round whose values add up to the least."""
    return min(range(len(rounds)), key=lambda number: sum(rounds[number]))
