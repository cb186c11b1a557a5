"""What every rank writes down of itself, every few seconds and when something goes wrong: lines for a log shipper."""

from __future__ import annotations

import time

import numpy as np

from ryzen_mpi.metrics.logs import RankLogs
from ryzen_mpi.training.agreement import Table
from ryzen_mpi.training.step import StepOutcome

_COMMUNICATION = ("retransmits", "packets_lost")


class OwnLines:
    """A rank's lines on its own speed, machine and communication, from the tables all ranks have. Local.

    Args:
        logs: where they go.
        rank: whose they are.
        interval_s: seconds between two lines of each kind.
    """

    def __init__(self, logs: RankLogs, rank: int, interval_s: float) -> None:
        self.logs, self.rank, self.interval_s = logs, rank, interval_s
        self._due = 0.0
        self._blocked: list[tuple[float, float, float]] = []

    def step(self, outcome: StepOutcome, times: Table) -> None:
        """Takes a step, and the table with its times; writes where it is time to."""
        last = (times.step_s[self.rank], times.communication_s[self.rank], times.reduce_s[self.rank])
        self._blocked.append(tuple(map(float, last)))
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self.interval_s
        step_s, communication_s, reduce_s = np.array(self._blocked).mean(axis=0)
        table, steps, self._blocked = outcome.table, len(self._blocked), []
        gauges = {name: float(values[self.rank]) for name, values in table.gauges.items()}
        network = {name: gauges.pop(name) for name in _COMMUNICATION}
        self.logs.performance(
            step=outcome.step,
            steps=steps,
            loss=float(table.rank_loss[self.rank]),
            gradient_norm=float(np.sqrt(table.own_square[self.rank])),
            step_s=step_s,
            cpu_share=float(table.cpu_share[self.rank]),
            rss_bytes=float(table.rss_bytes[self.rank]),
            **gauges,
        )
        self.logs.communication(
            step=outcome.step,
            steps=steps,
            communication_s=communication_s,
            reduce_s=reduce_s,
            sent_bytes=float(table.sent_bytes[self.rank]),
            **network,
        )
