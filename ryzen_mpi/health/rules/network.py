"""A node whose network loses packets: told."""

from __future__ import annotations

import math

from ryzen_mpi.health.acts import Act
from ryzen_mpi.health.rules.rule import Rule
from ryzen_mpi.health.samples import Sample, Samples
from ryzen_mpi.health.window import Window
from ryzen_mpi.training.look import Look

FLOORS = {"retransmits": 50.0, "packets_lost": 50.0}
"""Fewer between two looks at a node are usual: congestion control probes for the bandwidth by losing."""
TIMES = 10.0
"""... and fewer than so many times the usual number."""
WINDOW = 60
"""Samples whose median is the usual number."""
STREAK = 3
SAID = {"retransmits": "TCP segments sent again", "packets_lost": "packets lost or damaged"}


class Network(Rule):
    """Tells of a node that sends TCP segments again, or loses packets, far more than it usually does.

    Looks at: both counts of each node since its sample before; in jobs of several nodes only.
    Statistic: 3 samples on end with more than 50, and more than 10 times the median of the newest 60 usual ones.
    False alarms: designed for less than one in a million samples; bursts are shorter than 3 samples.
    Found: within 3 samples (monitor.sample_s each). Told once, and when it is over.
    """

    name = "network"

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._series: dict[tuple[str, str], Series] = {}

    def look(self, look: Look) -> list[Act]:
        new = self._samples.new(look)
        if not new or len(set(look.hosts)) < 2:
            return []
        firsts = [sample for sample in new if sample.of_node]
        return [act for sample in firsts for name in FLOORS if (act := self._one(sample, name))]

    def _one(self, sample: Sample, name: str) -> Act | None:
        series = self._series.setdefault((sample.node, name), Series(FLOORS[name]))
        count = sample.value(name)
        if not series.changed(count):
            return None
        said = f"{SAID[name]} on {sample.node}: {count:.0f} between two samples, {series.usual:.0f} is usual"
        if not series.told:
            said = f"{SAID[name]} on {sample.node}: as few as usual again"
        figures = {"count": count, "usual": series.usual, "over": int(not series.told)}
        return self.act(sample.look, "warn", said, node=sample.node, what=name, **figures)


class Series:
    """A node's counts of one kind."""

    def __init__(self, floor: float) -> None:
        self.told, self._floor, self._streak = False, floor, 0
        self._window = Window(WINDOW)

    @property
    def usual(self) -> float:
        return self._window.median if len(self._window) else 0.0

    def changed(self, count: float) -> bool:
        """Whether, with this count, it has become far more than usual, or is so no longer."""
        if not math.isfinite(count):
            return False
        many = count > max(self._floor, TIMES * self.usual)
        if not many:
            self._window.add(count)
        self._streak = self._streak + 1 if many != self.told else 0
        if self._streak < STREAK:
            return False
        self.told, self._streak = many, 0
        return True
