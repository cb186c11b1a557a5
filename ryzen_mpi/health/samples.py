"""Which nodes' gauges are newer than at the look before: they are read every few seconds, and steps are shorter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ryzen_mpi.training.look import Look


@dataclass(frozen=True)
class Sample:
    """A node's gauges as they were just read again.

    Attributes:
        node: its name.
        ranks: those on it.
        look: whose gauges they are.
    """

    node: str
    ranks: tuple[int, ...]
    look: Look = field(repr=False)

    def known(self, name: str) -> list[float]:
        """What the node's ranks say of the gauge `name`, those left out that cannot tell."""
        values = self.look.gauges.get(name)
        if values is None:
            return []
        return [value for rank in self.ranks if not math.isnan(value := float(values[rank]))]

    def most(self, name: str) -> float:
        """The largest of them; NaN where no rank can tell."""
        return max(self.known(name), default=math.nan)


class Samples:
    """Finds the nodes that have looked anew: those whose first rank's gauges differ from the look before.

    Several rules share one; it compares once a look.
    """

    def __init__(self) -> None:
        self._look: Look | None = None
        self._new: list[Sample] = []
        self._bytes = b""
        self._seen: dict[str, bytes] = {}

    def new(self, look: Look) -> list[Sample]:
        """The nodes whose gauges are new at this look, in the order of their ranks."""
        if look is not self._look:
            self._look, self._new = look, self._compare(look)
        return self._new

    def _compare(self, look: Look) -> list[Sample]:
        content = b"".join([values.tobytes() for values in look.gauges.values()])
        if content == self._bytes or not content:
            return []
        self._bytes = content
        table, found = np.array(list(look.gauges.values())), []
        for node, ranks in nodes(look.hosts or [""] * look.ranks):
            of_first = table[:, ranks[0]].tobytes()
            if self._seen.get(node) != of_first:
                self._seen[node] = of_first
                found.append(Sample(node, ranks, look))
        return found


def nodes(hosts: Iterable[str]) -> list[tuple[str, tuple[int, ...]]]:
    """The nodes with their ranks, both in rank order."""
    found: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        found.setdefault(host, []).append(rank)
    return [(host, tuple(ranks)) for host, ranks in found.items()]
