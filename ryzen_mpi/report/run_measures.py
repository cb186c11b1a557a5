"""What follows from the steps of a run: rates, shares, slow ranks, drifts. All functions are pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ryzen_mpi.figures import Figure, median
from ryzen_mpi.health.balance import over_others
from ryzen_mpi.health.rules.spike import loss_spikes
from ryzen_mpi.report.run_facts import RunFacts, Steps

MOST_FOR_SLOPES = 600
"""Points a slope is taken from: Theil-Sen looks at all pairs."""


@dataclass(frozen=True)
class Slow:
    """How a rank computes against the others: `more` is the share it takes longer, with its interval."""

    rank: int
    more: Figure


@dataclass(frozen=True)
class Slope:
    """Relative change from the first to the last step: -0.08 is 8 % less; with its 95 % interval over `n` points."""

    change: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class RankTimes:
    """Mean seconds a step of each rank, arrays (ranks,); `other_s` is what no step accounts for: data, saving."""

    computation_s: np.ndarray
    communication_s: np.ndarray
    other_s: np.ndarray


def throughput(facts: RunFacts) -> Figure | None:
    """Samples a second: median over the measured steps."""
    steps = facts.measured()
    return _median(steps.rates()) if steps is not None else None


def communication_share(facts: RunFacts) -> Figure | None:
    """Share of a step that the ranks are blocked in collectives, on average: median over the measured steps."""
    steps = facts.measured()
    if steps is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return _median(steps.communication_s / steps.step_s)


def _median(values: np.ndarray) -> Figure | None:
    finite = values[np.isfinite(values)]
    return median(finite) if len(finite) else None


def newest_world(steps: Steps) -> Steps:
    """The steps since the number of ranks last changed, rank arrays as wide as that world."""
    last = steps.at(np.arange(len(steps)) >= steps.starts()[-1])
    ranks = int(last.ranks[-1])
    narrow = {name: getattr(last, name)[:, :ranks] for name in Steps.__dataclass_fields__ if name.startswith("rank_")}
    return Steps(**{name: narrow.get(name, getattr(last, name)) for name in Steps.__dataclass_fields__})


def slow_ranks(facts: RunFacts) -> list[Slow]:
    """Every rank of the newest world against the median of the others, by the time it computes (not waits)."""
    steps = facts.measured()
    if steps is None:
        return []
    steps = newest_world(steps)
    more = over_others(steps.rank_step_s - steps.rank_communication_s)
    figures = [_median(of_rank) for of_rank in more.T]
    return [Slow(rank, figure) for rank, figure in enumerate(figures) if figure is not None]


def rank_times(facts: RunFacts) -> RankTimes | None:
    """Where the time of the newest world's ranks went, means over the measured steps; None where it is not known."""
    steps = facts.measured()
    if steps is None:
        return None
    steps = newest_world(steps)
    steps = steps.at(np.isfinite(steps.rank_step_s).all(1) & np.isfinite(steps.rank_communication_s).all(1))
    if not len(steps):
        return None
    between = np.diff(steps.wall_time_s)[np.diff(steps.step) == 1]
    wall = float(np.mean(between)) if len(between) else float(np.mean(steps.step_s))
    communication, whole = steps.rank_communication_s.mean(0), steps.rank_step_s.mean(0)
    return RankTimes(whole - communication, communication, np.maximum(0.0, wall - whole))


def drift(facts: RunFacts) -> Slope | None:
    """How throughput changed over the measured steps of the newest world; None for fewer than 30 of them."""
    steps = facts.measured()
    if steps is None:
        return None
    steps = newest_world(steps)
    return slope(steps.step, steps.rates())


def memory_growth(facts: RunFacts) -> Slope | None:
    """How the ranks' resident memory together changed over the measured steps of the newest world."""
    steps = facts.measured()
    if steps is None:
        return None
    steps = newest_world(steps)
    return slope(steps.step, np.nansum(steps.rank_rss_bytes, axis=1))


def slope(x: np.ndarray, y: np.ndarray, least: int = 30) -> Slope | None:
    """Theil-Sen: the median of all slopes, untouched by outliers up to 29 % of the points.

    Source: Sen 1968, JASA 63:1379. Points that are no number are left out; many are first taken together by medians,
    to MOST_FOR_SLOPES.
    """
    from scipy.stats import theilslopes

    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if len(x) < least or not np.median(y) > 0:
        return None
    n = len(x)
    x, y = thinned(x, y, MOST_FOR_SLOPES)
    found, scale = theilslopes(y, x), (x[-1] - x[0]) / np.median(y)
    return Slope(*(float(part * scale) for part in (found.slope, found.low_slope, found.high_slope)), n)


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points: medians of equal groups of neighbours. NaN are left out of their group."""
    if len(x) <= most:
        return np.asarray(x, float), np.asarray(y, float)
    groups = np.array_split(np.arange(len(x)), most)
    return np.array([np.median(x[group]) for group in groups]), np.array([_middle(y[group]) for group in groups])


def _middle(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else np.nan


def spikes(steps: Steps) -> list[int]:
    """Steps whose loss stands out by itself, as the monitor judges it (health/rules/spike.py)."""
    return steps.step[loss_spikes(steps.loss.tolist())].tolist()
