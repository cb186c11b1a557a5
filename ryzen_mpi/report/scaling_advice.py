"""What a scaling measurement suggests, by rules. All are pure."""

from __future__ import annotations

from collections.abc import Iterator

from ryzen_mpi.report.content import Advice, by_urgency
from ryzen_mpi.report.scaling_facts import FACTORS, Point, ScalingFacts, Series
from ryzen_mpi.report.texts import number_text, plural

FEW_LAUNCHES = 5
WIDE = 0.10
LOST = 0.05
"""A factor that costs less than this is not worth a word."""

_REMEDIES = {
    "load_balance": "some ranks compute longer than others: compare their cores, threads and clocks",
    "communication_efficiency": "larger batches or accumulation, fewer ranks a core, compression between nodes",
    "computation_scaling": "the ranks take memory bandwidth or clock from one another, or each batch got too small",
}


def advise(facts: ScalingFacts) -> tuple[Advice, ...]:
    """All that the rules have to say of a measurement."""
    found = [advice for one in facts.series for advice in (*impossible(one), *largest_loss(one), *uncertain(one))]
    return by_urgency([*found, *oversubscribed(facts), *disturbed(facts)])


def impossible(series: Series) -> Iterator[Advice]:
    """More than ideal: only the computation itself can have become cheaper, and that has to be explained."""
    for point in series.points:
        if point.efficiency.low > 1:
            what = f"{series.mode} efficiency on {plural(point.ranks, 'rank')} is above 100 % with its whole interval"
            why = point.explained or "nothing in the report explains it"
            yield Advice("watch" if point.explained else "act", what, why, "compare warm-up, threads and samples first")


def largest_loss(series: Series) -> Iterator[Advice]:
    """Which factor costs the most at the largest number of ranks."""
    point = series.points[-1]
    known = {name: factor.value for name, factor in point.factors.items() if factor is not None}
    if not known or point.ranks == series.points[0].ranks:
        return
    name = min(known, key=known.__getitem__)
    if known[name] < 1 - LOST:
        what = f"{series.mode} scaling on {plural(point.ranks, 'rank')} loses most in {FACTORS[name]}"
        yield Advice("watch", what, f"{number_text(round(100 * known[name], 1))} %", _REMEDIES[name])


def uncertain(series: Series) -> Iterator[Advice]:
    """Too few launches, or intervals too wide."""
    few = [point for point in series.points if point.launches < FEW_LAUNCHES]
    if few:
        least = min(few, key=lambda point: point.launches)
        what = f"{series.mode} scaling rests on {plural(least.launches, 'launch', 'launches')} of {least.ranks} ranks"
        yield Advice("note", what, "the launch is the unit of statistics", f"repeat: {FEW_LAUNCHES} or more of each")
    wide = [point for point in series.points if _width(point) > WIDE]
    if wide:
        worst = max(wide, key=_width)
        what = f"the efficiency on {worst.ranks} ranks is known to ±{50 * _width(worst):.2g} % only"
        yield Advice("note", what, "the launches differ", "repeat on a quiet machine")


def _width(point: Point) -> float:
    return (point.efficiency.high - point.efficiency.low) / point.efficiency.value if point.efficiency.value else 0.0


def oversubscribed(facts: ScalingFacts) -> Iterator[Advice]:
    """More threads than cores: the figures are no scaling of a machine."""
    if facts.oversubscribed:
        why = "ranks shared cores, or had more threads than cores"
        yield Advice("act", "these figures say nothing of more nodes", why, "measure with a core for each thread")


def disturbed(facts: ScalingFacts) -> Iterator[Advice]:
    """Launches whose ranks waited for a core."""
    if facts.disturbed:
        what = f"{plural(len(facts.disturbed), 'launch', 'launches')} disturbed"
        yield Advice("watch", what, facts.disturbed[0], "repeat on a quiet machine")
