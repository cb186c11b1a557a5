"""What is looked at every few seconds: the communication of the steps since, the machines, and how the run stands."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ryzen_mpi.cluster.gauges import COUNTED
from ryzen_mpi.metrics.record import SampleRecord
from ryzen_mpi.training.agreement import Table


class Samples:
    """Makes a record of the steps since the one before. Rank 0 keeps it; local.

    Args:
        interval_s: seconds between two records.
        gradient_bytes, ranks_of_nodes, sharded: of the gradient; ranks of every node; whether it is cut among them.
        figures: gives what is to be known of the run, by the names of signals of kind "sample".
    """

    def __init__(
        self,
        interval_s: float,
        gradient_bytes: int,
        ranks_of_nodes: Sequence[int],
        sharded: bool,
        figures: Callable[[], Mapping[str, float]],
    ) -> None:
        self.interval_s, self.figures = interval_s, figures
        self.node_bytes = exchanged_bytes(gradient_bytes, ranks_of_nodes, sharded)
        self.ranks = sum(ranks_of_nodes)
        self._due = time.monotonic()  # after the first step: a run of a second has a sample too
        self._steps: list[tuple[float, float, float, float]] = []
        self._counted: dict[str, np.ndarray] = {}
        self._looks: np.ndarray | float = 0.0

    def add(self, step: int, now: Table, times: Table) -> SampleRecord | None:
        """Takes a step, `now` its table and `times` the one with its times; a record where one is due."""
        mean_s = float(times.communication_s.mean())
        last = (float(times.step_s.max()), mean_s, float(times.reduce_s.max()), float(now.sent_bytes.sum()))
        self._steps.append(last)
        new, self._looks = now.looks != self._looks, now.looks  # what a look has counted is in every row until the next
        for name in COUNTED:
            self._counted[name] = self._counted.get(name, 0.0) + np.where(new, now.gauges[name], 0.0)
        if time.monotonic() < self._due:
            return None
        self._due = time.monotonic() + self.interval_s
        return self.take(step, now)

    def take(self, step: int, now: Table) -> SampleRecord:
        """The record of the steps since the one before."""
        step_s, communication_s, reduce_s, sent = np.array(self._steps).T
        counted, self._steps, self._counted = self._counted, [], {}
        values = {"communication_share": communication_s.sum() / step_s.sum()}
        if self.ranks > 1:
            values |= {
                "allreduce_mean_s": reduce_s.mean(),
                "allreduce_p50_s": np.quantile(reduce_s, 0.5),
                "allreduce_p99_s": np.quantile(reduce_s, 0.99),
                "node_bytes": self.node_bytes,
                "network_bytes": sent.mean(),
                "bandwidth_used": (self.node_bytes + np.nan_to_num(sent).mean()) / max(reduce_s.mean(), 1e-9),
            }
        values |= self.figures()
        ranked = {f"rank_{name}": column for name, column in (now.gauges | counted).items()} | {"rank_beats": now.beats}
        return SampleRecord(step, time.time(), {name: float(value) for name, value in values.items()}, ranked)


def exchanged_bytes(gradient_bytes: int, ranks_of_nodes: Sequence[int], sharded: bool) -> float:
    """Bytes that the ranks of the nodes give one another of their gradients in a step.

    Every rank's share comes to every other rank once to be added up, and the sum back where not only its owner needs
    it: n - 1 gradients a node of n ranks, or twice that. As for a ring (Patarasuk and Yuan 2009), whatever way is gone.
    """
    return float(sum((n - 1) * gradient_bytes * (1 if sharded else 2) for n in ranks_of_nodes))


def node_sizes(hosts: Sequence[str]) -> list[int]:
    """How many ranks each node has."""
    return list(Counter(hosts).values())
