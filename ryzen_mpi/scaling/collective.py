"""Seconds of an all-reduce over M nodes of k ranks, by algorithm: Hockney's a + b n a message, nothing hidden.

Sources: Hockney 1994 (the line a + b n); Thakur, Rabenseifner and Gropp 2005, Optimization of collective communication
operations in MPICH, IJHPCA 19(1), sections 4.1 to 4.5 (the counts of messages and bytes); Patarasuk and Yuan 2009 (no
all-reduce sends less than 2 (M-1)/M n). The ranks of a node share its link, so the bytes are those of the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PIECE_BYTES = 8 << 20
"""Of a node's gradient that crosses the network at a time (comm/arena.py)."""


@dataclass(frozen=True)
class Link:
    """Between nodes: seconds a message, and seconds a byte that leaves a node."""

    latency_s: float
    s_per_byte: float


def timed(launches: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(bytes, median seconds) of the all-reduces that the launches of a calibration timed. Pure."""
    import numpy as np

    return [(row["bytes"], float(np.median(row["s"]))) for launch in launches for row in launch.get("collective", ())]


def fit_line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(a, b) of T = a + b n by least relative squares of `points` (bytes, seconds), neither negative. Pure."""
    import numpy as np
    from scipy.optimize import nnls

    if not points:
        return 0.0, 0.0
    sizes, seconds = np.array(points, dtype=np.float64).T
    scale = float(sizes.max())
    found, _ = nnls(np.stack([1 / seconds, sizes / scale / seconds], axis=1), np.ones(len(points)))
    return float(found[0]), float(found[1]) / scale


def largest_over_line(points: Sequence[tuple[int, float]]) -> tuple[int, float, float]:
    """The most bytes of `points` (bytes, seconds), their median seconds, and the seconds of the fitted line. Pure."""
    import numpy as np

    latency_s, s_per_byte = fit_line(points)
    most = max(size for size, _ in points)
    return most, float(np.median([s for size, s in points if size == most])), latency_s + s_per_byte * most


def direct(size: float, nodes: int, link: Link) -> float:
    """A part to each node and the sums back, pairwise: what comm/across.py does."""
    rounds = max(1, math.ceil(size / PIECE_BYTES))
    return 2 * rounds * (nodes - 1) * link.latency_s + 2 * size * (nodes - 1) / nodes * link.s_per_byte


def ring(size: float, nodes: int, link: Link) -> float:
    """Reduce-scatter and all-gather around a ring: the fewest bytes, to neighbours only, in one piece."""
    return 2 * (nodes - 1) * link.latency_s + 2 * size * (nodes - 1) / nodes * link.s_per_byte


def halving(size: float, nodes: int, link: Link) -> float:
    """Rabenseifner's recursive halving and doubling; a number of nodes that is no power of two costs a round trip."""
    steps = 2 * math.floor(math.log2(nodes))
    extra = 0 if nodes & (nodes - 1) == 0 else 2
    between = 2 * size * (nodes - 1) / nodes + (2 * size if extra else 0)
    return (steps + extra) * link.latency_s + between * link.s_per_byte


def doubling(size: float, nodes: int, link: Link) -> float:
    """Recursive doubling: everything in every message, fewest of them; for small sizes."""
    extra = 0 if nodes & (nodes - 1) == 0 else 2
    steps = math.floor(math.log2(nodes)) + extra
    return steps * (link.latency_s + size * link.s_per_byte)


ALGORITHMS: dict[str, Callable[[float, int, Link], float]] = {
    "direct": direct,
    "ring": ring,
    "halving": halving,
    "doubling": doubling,
}
OURS = "direct"
"""What backend mpi does today; the others are what a change of it would bring."""


def between_nodes(algorithm: str, size: float, nodes: int, link: Link) -> float:
    """Seconds between `nodes` nodes for `size` bytes of a node; 0 for one node. Pure."""
    return ALGORITHMS[algorithm](size, nodes, link) if nodes > 1 else 0.0


def flat_ring(size: float, ranks: int, link: Link) -> float:
    """A ring over all ranks that does not know the nodes, as Gloo's: two of a node's ranks use its link. Pure."""
    return ring(size, ranks, link) if ranks > 1 else 0.0


def agreement(ranks: int, nodes: int, row_bytes: int, link: Link) -> float:
    """An all-gather of a row a rank (Bruck's: Thakur et al., section 4.1): what the step's agreement is. Pure."""
    if nodes == 1:
        return 0.0
    return math.ceil(math.log2(nodes)) * link.latency_s + row_bytes * ranks * (nodes - 1) / nodes * link.s_per_byte
