"""Speedup and efficiency from launches, and the factors they are made of.

Definitions, T the seconds of the measured part (barrier to barrier, slowest rank):
    strong E = T1 / (P T_P), the same samples in the same global batches; weak E = T1 / T_P, the same samples a rank.

The factors are those of the POP Centre of Excellence (pop-coe.eu, Standard Metrics for Performance Audits; Wagner,
Mohr, Gimenez & Labarta 2019, A Structured Approach to Performance Analysis, Tools for High Performance Computing 2017),
with C the computation of a rank, the time it was not blocked in collectives:
    load balance              = mean(C) / max(C)            at most 1
    communication efficiency  = max(C) / T_P                at most 1
    computation scaling       = C1 / (P mean(C)) strong,  C1 / mean(C) weak
Alone nobody is waited for, so that C1 is T1, and E is the product, exactly. Load balance and communication efficiency
cannot exceed 1: an efficiency above 1 is ranks that compute quicker in a group than one alone, and that has causes
which can be measured (the working set came to fit a cache, the clock rose), or it is a mistake.

A launch is one observation. Launches of the same repeat are compared, so that the hour of the day is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ryzen_mpi.bench.disturbance import is_disturbed
from ryzen_mpi.figures import Figure
from ryzen_mpi.scaling.estimate import geometric, hodges_lehmann
from ryzen_mpi.scaling.record import Launch
from ryzen_mpi.units import bytes_text

LEAST_REPEATS = 5
"""Fewer launches a point have no interval of even 90 %: of four it holds 87.5 %."""
FEW_LAUNCHES_MARGIN = 0.1
"""Above 1, by which fewer launches than that must lie before they are called impossible rather than too few."""
CLOCK_ROUNDING = 0.01
"""By which clocks, read at one moment, may differ from their mean over the launch."""


@dataclass(frozen=True)
class Factors:
    """What the efficiency of one launch against its base is made of; the last three multiply to the first."""

    efficiency: float
    load_balance: float
    communication_efficiency: float
    computation_scaling: float


def decompose(base: Launch, launch: Launch) -> Factors:
    """The factors of `launch`; `base` is one rank of the same mode, and may be the launch itself. Pure."""
    share = launch.ranks if launch.mode == "strong" else 1
    efficiency = base.measured_s / (share * launch.measured_s)
    if launch.ranks == 1:  # nobody to wait for: all of it is computation
        return Factors(efficiency, 1.0, 1.0, efficiency)
    most = max(launch.rank_computation_s)
    mean = sum(launch.rank_computation_s) / launch.ranks
    return Factors(efficiency, mean / most, most / launch.measured_s, base.measured_s / (share * mean))


@dataclass(frozen=True)
class Point:
    """One number of ranks: its launches, and those with one rank of the same repeats."""

    ranks: int
    launches: tuple[Launch, ...]
    bases: tuple[Launch, ...]

    @property
    def factors(self) -> list[Factors]:
        """Of each pair."""
        return [decompose(base, launch) for base, launch in zip(self.bases, self.launches, strict=True)]

    def ratio(self, of: Callable[[Factors], float]) -> Figure:
        """A factor over all pairs."""
        return geometric([of(factors) for factors in self.factors])


def points(launches: Iterable[Launch], mode: str) -> list[Point]:
    """The launches of `mode` paired with the base of their repeat, by number of ranks. Pure.

    A launch whose base failed is in no pair.
    """
    mine = sorted((launch for launch in launches if launch.mode == mode), key=lambda launch: launch.number)
    bases = {launch.repeat: launch for launch in mine if launch.ranks == 1}
    found = []
    for ranks in sorted({launch.ranks for launch in mine}):
        paired = {launch.repeat: launch for launch in mine if launch.ranks == ranks and launch.repeat in bases}
        if paired:
            found.append(Point(ranks, tuple(paired.values()), tuple(bases[repeat] for repeat in paired)))
    return found


def series(launches: Sequence[Launch], mode: str) -> dict[str, Any] | None:
    """The figures of `mode` in the report's shape, None where it has no pair. Pure.

    Figures are estimated each by itself: their product is the efficiency in each pair, and only nearly in the table.
    """
    found = points(launches, mode)
    return {"mode": mode, "points": [_row(point) for point in found]} if found else None


def _row(point: Point) -> dict[str, Any]:
    one, ranks = point.launches[0], point.ranks
    efficiency = point.ratio(lambda factors: factors.efficiency)
    seconds = {name: [_mean(getattr(launch, name)) for launch in point.launches] for name in _TIMES}
    shares = [
        blocked / launch.measured_s
        for blocked, launch in zip(seconds["rank_communication_s"], point.launches, strict=True)
    ]
    return {
        "ranks": ranks,
        "nodes": one.nodes,
        "global_batch": one.global_batch,
        "samples": one.samples,
        "throughput": fig(geometric([launch.samples / launch.measured_s for launch in point.launches]), "samples/s"),
        "measured_s": fig(geometric([launch.measured_s for launch in point.launches]), "s"),
        "speedup": fig(efficiency.mapped(lambda value: value * ranks), "1"),
        "efficiency": fig(efficiency, "1"),
        "load_balance": fig(point.ratio(lambda factors: factors.load_balance), "1"),
        "communication_efficiency": fig(point.ratio(lambda factors: factors.communication_efficiency), "1"),
        "computation_scaling": fig(point.ratio(lambda factors: factors.computation_scaling), "1"),
        "communication_share": fig(hodges_lehmann(shares), "1"),
        "computation_s": fig(hodges_lehmann(seconds["rank_computation_s"]), "s"),
        "communication_s": fig(hodges_lehmann(seconds["rank_communication_s"]), "s"),
        "launches": len(point.launches),
        "oversubscribed": any(launch.oversubscribed for launch in point.launches),
        "explained": explain(point) if is_above_one(efficiency) else None,
    }


_TIMES = ("rank_computation_s", "rank_communication_s")


def fig(figure: Figure, unit: str) -> dict[str, Any]:
    """A figure in the report's shape. Pure."""
    return {
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "n": figure.n,
        "unit": unit,
        "confidence": figure.confidence,
    }


def is_above_one(figure: Figure) -> bool:
    """Whether a ratio lies above 1 beyond what its launches leave open. Pure."""
    return figure.low > (1.0 if figure.n >= LEAST_REPEATS else 1.0 + FEW_LAUNCHES_MARGIN)


def explain(point: Point) -> str | None:
    """The measured facts that let these ranks compute quicker than one alone; None where there are none. Pure.

    A rise of the clock explains as much as it is; a working set that fits a cache which one rank's does not explains
    a factor of any size, as levels of memory differ in speed by more than any number here.
    """
    scaling = point.ratio(lambda factors: factors.computation_scaling)
    reasons = []
    for level in sorted(point.launches[0].cache_bytes, key=int, reverse=True):
        if all(_fits(launch, level) for launch in point.launches) and not any(_fits(b, level) for b in point.bases):
            ours, its = point.launches[0], point.bases[0]
            reasons.append(
                f"a rank's working set ({bytes_text(ours.working_set_bytes)}) fits its share of the level-{level} "
                f"cache ({bytes_text(ours.cache_bytes[level])}); that of one rank alone "
                f"({bytes_text(its.working_set_bytes)}) did not fit {bytes_text(its.cache_bytes[level])}"
            )
            break
    clock = _clock_ratio(point)
    if clock is not None and clock > 1 + CLOCK_ROUNDING and (reasons or scaling.low <= clock * (1 + CLOCK_ROUNDING)):
        reasons.append(f"the cores' clock was {100 * (clock - 1):.1f} % higher than with one rank")
    return "; ".join(reasons) or None


def _fits(launch: Launch, level: str) -> bool:
    return launch.working_set_bytes <= launch.cache_bytes.get(level, 0)


def _clock_ratio(point: Point) -> float | None:
    """Clock of the ranks over that of the base; None where the machine does not tell."""
    pairs = [(launch.clock_mhz, base.clock_mhz) for launch, base in zip(point.launches, point.bases, strict=True)]
    if any(not ours or not its for ours, its in pairs):
        return None
    return geometric([ours / its for ours, its in pairs]).value


def unexplained(launches: Sequence[Launch], mode: str) -> list[str]:
    """What of the efficiencies of `mode` cannot be true. Pure."""
    found = []
    for point in points(launches, mode):
        efficiency = point.ratio(lambda factors: factors.efficiency)
        if not is_above_one(efficiency) or explain(point) is not None:
            continue
        scaling = point.ratio(lambda factors: factors.computation_scaling)
        found.append(
            f"{mode} scaling: {point.ranks} ranks have an efficiency of {interval_text(efficiency)}, above 1, from a "
            f"computation scaling of {interval_text(scaling)} that neither a cache nor the clock explains"
        )
    return found


def interval_text(figure: Figure) -> str:
    """ "1.26 [1.25, 1.27]". Pure."""
    return f"{figure.value:.3g} [{figure.low:.3g}, {figure.high:.3g}]"


def shortages(launches: Sequence[Launch], asked: dict[str, Sequence[int]]) -> list[str]:
    """What is missing for a verdict: `asked` are the numbers of ranks by mode. Pure."""
    found = []
    for mode, numbers in asked.items():
        pairs = {point.ranks: len(point.launches) for point in points(launches, mode)}
        for ranks in numbers:
            count = pairs.get(ranks, 0)
            if count < LEAST_REPEATS:
                found.append(
                    f"{mode} scaling: {count} of at least {LEAST_REPEATS} launches with {ranks} "
                    f"rank{'s' * (ranks > 1)} that have a base of the same repeat"
                )
    short = [launch for launch in launches if launch.measured_s < SHORTEST_S]
    if short:
        least = min(short, key=lambda launch: launch.measured_s)
        found.append(f"{least.name} measured {least.measured_s:.2g} s, less than {SHORTEST_S:g} s (--steps)")
    return found


def disturbed(launches: Sequence[Launch]) -> list[str]:
    """Launches whose ranks, each on cores of its own, waited for others to leave them: they tell of both. Pure."""
    return [
        f"{launch.name}: a rank waited {100 * launch.waited_share:.1f} % of the time for a core that others had"
        for launch in launches
        if launch.waited_share is not None and is_disturbed(launch.waited_share) and not launch.oversubscribed
    ]


SHORTEST_S = 1.0
"""A measured part below it is mostly the machine's other work: time slices, timers, interrupts."""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
