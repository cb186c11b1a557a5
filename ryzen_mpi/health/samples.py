"""Which ranks' gauges are newer than at the look before: they are read every few seconds, and steps are shorter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ryzen_mpi.cluster.gauges import NAMES
from ryzen_mpi.training.look import Look


@dataclass(frozen=True)
class Sample:
    """A rank's gauges as they were just read again.

    Attributes:
        rank: whose they are.
        node: name of its node.
        ranks: all ranks of that node.
        look: that has them.
    """

    rank: int
    node: str
    ranks: tuple[int, ...]
    look: Look = field(repr=False)

    @property
    def of_node(self) -> bool:
        """Whether it stands for the node: of what is a node's, its first rank's samples are taken.

        Each rank looks when it likes. Of all ranks, the same event would be seen several times.
        """
        return self.rank == self.ranks[0]

    def value(self, name: str) -> float:
        """The rank's gauge; NaN where it cannot tell."""
        values = self.look.gauges.get(name)
        return float(values[self.rank]) if values is not None else math.nan


class Samples:
    """Finds the ranks whose gauges (cluster.gauges.NAMES) differ from the look before. Several rules share one."""

    def __init__(self) -> None:
        self._look: Look | None = None
        self._new: list[Sample] = []
        self._bytes = b""
        self._seen: dict[int, bytes] = {}

    def new(self, look: Look) -> list[Sample]:
        """The samples that are new at this look, in rank order."""
        if look is not self._look:
            self._look, self._new = look, self._compare(look)
        return self._new

    def _compare(self, look: Look) -> list[Sample]:
        gauges = [values for name in NAMES if (values := look.gauges.get(name)) is not None]
        content = b"".join([values.tobytes() for values in gauges])
        if content == self._bytes or not content:
            return []
        self._bytes = content
        table, found = np.array(gauges).T, []
        for node, ranks in nodes(look.hosts or [""] * look.ranks):
            for rank in ranks:
                if self._seen.get(rank) != (own := table[rank].tobytes()):
                    self._seen[rank] = own
                    found.append(Sample(rank, node, ranks, look))
        return found


def nodes(hosts: Iterable[str]) -> list[tuple[str, tuple[int, ...]]]:
    """The nodes with their ranks, both in rank order."""
    found: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        found.setdefault(host, []).append(rank)
    return [(host, tuple(ranks)) for host, ranks in found.items()]
