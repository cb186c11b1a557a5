"""The daily, weekly and monthly check lists: what has to have been looked at, and what the records say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ryzen_mpi.report.advice import COMMUNICATION_ACT, DRIFT, MEMORY_LIMIT, checkpoints, declining, memory
from ryzen_mpi.report.phase_report import newest_trouble, shown_measured
from ryzen_mpi.report.results_facts import ResultsFacts
from ryzen_mpi.report.run_facts import RunFacts
from ryzen_mpi.report.run_measures import communication_share, throughput
from ryzen_mpi.report.run_report import run_headline
from ryzen_mpi.report.texts import listed, number_text, plural
from ryzen_mpi.units import duration_text

State = Literal["done", "trouble", "not run"]
PERIODS = {"daily": 1, "weekly": 7, "monthly": 30}
"""Days that a list looks back on."""


@dataclass(frozen=True)
class Found:
    """What became of an item of the list. "done" is looked at and in order; what was not run is never that."""

    item: str
    state: State
    text: str


@dataclass(frozen=True)
class Records:
    """What was recorded in the period: runs and results folders; and the list's checks, each with what it is about."""

    runs: tuple[RunFacts, ...]
    results: tuple[ResultsFacts, ...]
    checks: tuple[tuple[str, str], ...]
    now: float


def check_list(period: str, records: Records) -> list[Found]:
    """The list of `period`, a key of PERIODS: what every run answers, the list's checks, monthly a verdict. Pure."""
    found = [item(records) for item in _RUN_ITEMS]
    found += [_checked(records, name, about) for name, about in records.checks]
    if not records.checks:
        found.append(Found(f"checks of the {period} list", "not run", "there is no such list of checks"))
    return [*found, _judged(records)] if period == "monthly" else found


def _checked(records: Records, name: str, about: str) -> Found:
    """What became of a check: its newest result in the period."""
    item = f"{name}: {about}" if about else name
    results = [result for facts in records.results for result in facts.results if result.check == name]
    if not results:
        return Found(item, "not run", "it left no result in the period")
    newest = max(results, key=lambda result: (result.ended, result.number))
    if trouble := newest_trouble(newest):
        return Found(item, "trouble", trouble)
    if newest.status != "measured":
        return Found(item, "not run", f"not measurable here: {newest.message}")
    known = [figure for figure in newest.findings.figures if figure.value is not None]
    if newest.findings.figures and not known:
        return Found(item, "not run", f"not measurable here: {newest.findings.figures[0].why}")
    first = f"{shown_measured(known[0]).name} {shown_measured(known[0]).text}, " if known else ""
    return Found(item, "done", f"{first}{duration_text(max(0, records.now - newest.ended))} ago")


def _judged(records: Records) -> Found:
    verdicts = [(facts.ended_s or 0, facts.verdict) for facts in records.results if facts.verdict is not None]
    if not verdicts:
        return Found("a gate's verdict (E13)", "not run", "no results of the period were judged")
    _, verdict = max(verdicts, key=lambda pair: pair[0])
    state = "done" if verdict.verdict == "GO" else "trouble"
    return Found("a gate's verdict (E13)", state, f"phase {verdict.phase}: {verdict.verdict}")


# -- the runs ---------------------------------------------------------------------------------------------------------


def _of_runs(item: str, judge: Callable[[RunFacts], tuple[str, str]]) -> Callable[[Records], Found]:
    """An item that every run of the period answers: `judge` gives (trouble or "", what is in order or "").

    Where neither is known for any run the item was not run; one run that is in trouble makes it trouble.
    """

    def judged(records: Records) -> Found:
        told = [(facts.name, *judge(facts)) for facts in records.runs]
        if bad := [f"{name}: {trouble}" for name, trouble, _ in told if trouble]:
            return Found(item, "trouble", "; ".join(bad))
        if good := [f"{name}: {order}" for name, _, order in told if order]:
            return Found(item, "done", listed(good, 4))
        return Found(item, "not run", "no run of the period tells" if told else "nothing was trained in the period")

    return judged


def _trained(records: Records) -> Found:
    runs = [facts for facts in records.runs if facts.steps is not None]
    if not runs:
        return Found("training went on", "not run", "no step was trained in the period")
    heads = [(facts.name, run_headline(facts, records.now)) for facts in runs]
    if bad := [f"{name}: {head.verdict.lower()}, {head.text}" for name, head in heads if head.tone == "bad"]:
        return Found("training went on", "trouble", "; ".join(bad))
    return Found("training went on", "done", listed([f"{name}: {head.verdict.lower()}" for name, head in heads], 4))


def _restarted(facts: RunFacts) -> tuple[str, str]:
    broken = [restart for restart in facts.restarts if not restart.planned]
    if broken:
        return f"{plural(len(broken), 'restart')} after a fault, the last: {broken[-1].why}", ""
    if facts.troubles:
        return facts.troubles[-1], ""
    return "", "none" if facts.places else ""


def _finite(facts: RunFacts) -> tuple[str, str]:
    if facts.steps is None:
        return "", ""
    broken = int(np.sum(~np.isfinite(facts.steps.loss) | (facts.steps.skipped > 0)))
    return (f"{plural(broken, 'step')} of no number or skipped", "") if broken else (
        "", f"{plural(len(facts.steps), 'step')}"
    )  # fmt: skip


def _fast(facts: RunFacts) -> tuple[str, str]:
    rate = throughput(facts)
    for advice in declining(facts):
        return advice.what, ""
    return "", f"{number_text(rate.value)} samples/s, no decline above {100 * DRIFT:g} %" if rate is not None else ""


def _communication(facts: RunFacts) -> tuple[str, str]:
    share = communication_share(facts)
    if share is None:
        return "", ""
    said = f"{100 * share.value:.3g} %"
    return (said, "") if share.value > COMMUNICATION_ACT else ("", said)


def _saved(facts: RunFacts) -> tuple[str, str]:
    for advice in checkpoints(facts):
        return advice.sentence, ""
    return "", f"newest of step {facts.checkpoints[-1][0]}" if facts.checkpoints else ""


def _remembered(facts: RunFacts) -> tuple[str, str]:
    for advice in memory(facts):
        return advice.sentence, ""
    known = any(place.node_memory_bytes for place in facts.places) and facts.steps is not None
    return "", f"below {100 * MEMORY_LIMIT:g} % of each node" if known else ""


_RUN_ITEMS: tuple[Callable[[Records], Found], ...] = (
    _trained,
    _of_runs("no restart after a fault", _restarted),
    _of_runs("every loss is a number, no step skipped", _finite),
    _of_runs("throughput holds", _fast),
    _of_runs(f"communication at most {100 * COMMUNICATION_ACT:g} % of a step", _communication),
    _of_runs("checkpoints are recent", _saved),
    _of_runs("memory has room", _remembered),
)


def of_state(found: list[Found], state: State) -> Iterator[Found]:
    """The items in that state."""
    return (item for item in found if item.state == state)
