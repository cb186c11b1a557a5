"""The figures of a watched run, by the same rules as its report's. All are pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ryzen_mpi.figures import Figure, median
from ryzen_mpi.report.advice import COMMUNICATION_ACT, COMMUNICATION_WATCH
from ryzen_mpi.report.content import Badge, Shown
from ryzen_mpi.report.run_facts import RunFacts, Steps, batches
from ryzen_mpi.report.run_measures import communication_share, newest_world, throughput
from ryzen_mpi.report.run_report import shown
from ryzen_mpi.report.texts import number_text, plural
from ryzen_mpi.units import bytes_text
from ryzen_mpi.watch.table import Table

RECENT_STEPS = 20
"""Steps that "now" is the median of."""
FIRST_STEPS, LEAST_STEPS = 100, 10
"""Steps that what is expected of the rest is the median of; with fewer than the least nothing is expected."""
SLOWER, MUCH_SLOWER = 0.95, 0.80


@dataclass(frozen=True)
class Expected:
    """Samples a second that a run ought to reach; `why` says who says so, from `n` steps. None: nothing is known."""

    rate: float | None
    why: str
    n: int = 0


def steps_of(table: Table, newest: int | None = None, ranked: bool = True) -> Steps | None:
    """The steps as reports have them: all of them, without what each rank did, or the `newest`, with it (`ranked`)."""
    rows = len(table)
    if not rows:
        return None
    names = ("rank_step_s", "rank_communication_s", "rank_rss_bytes")
    if newest is not None:
        rows = min(newest, len(table["rank_step_s"]) if ranked else rows)
    arrays = {name: table[name][-rows:] if newest and ranked else np.empty((rows, 0)) for name in names}
    batch = batches(table["step"][-rows - 1 :], table["samples"][-rows - 1 :])
    plain = {
        name: table[name][-rows:]
        for name in ("step", "wall_time_s", "loss", "gradient_norm", "step_s", "communication_s", "skipped")
    }
    return Steps(batch=batch[-rows:], ranks=table["ranks"][-rows:].astype(int), **plain, **arrays)


def recent(facts: RunFacts, count: int = RECENT_STEPS) -> Steps | None:
    """The newest of the measured steps since the number of ranks last changed."""
    measured = facts.measured()
    return None if measured is None else newest_world(measured).at(slice(-count, None))


def expectation(facts: RunFacts, given: float | None) -> Expected:
    """What the run's rate is held against: what a person gave, or else what it began with on as many ranks."""
    if given is not None:
        return Expected(given, "given with --expect", FIRST_STEPS)
    measured = facts.measured()
    if measured is None:
        return Expected(None, "no step yet")
    rates = newest_world(measured).rates()[:FIRST_STEPS]
    rates = rates[np.isfinite(rates)]
    if len(rates) < LEAST_STEPS:
        return Expected(None, f"known after {LEAST_STEPS} measured steps")
    ranks = int(measured.ranks[-1])
    return Expected(
        float(np.median(rates)),
        f"the run's own beginning: median of its first {len(rates)} measured steps on {plural(ranks, 'rank')}",
        len(rates),
    )


def rate_figure(facts: RunFacts, expected: Expected) -> Shown:
    """Samples a second now, against what is expected."""
    steps = recent(facts)
    figure = _median(steps.rates()) if steps is not None else None
    note = f"median of the newest {plural(figure.n, 'step')}" if figure else "no step yet"
    one = shown("samples/s", figure, "", "no step yet", note=note, badge=compared(figure, expected) if figure else None)
    target = f"expected {number_text(round(expected.rate, 1))}" if expected.rate is not None else ""
    return replace(one, target=target)


def compared(figure: Figure, expected: Expected) -> Badge:
    """Slower, where the whole interval of what is measured says so."""
    if not expected.rate or not math.isfinite(figure.value):
        return Badge("not judged", "unknown")
    change = figure.value / expected.rate - 1
    if figure.high < MUCH_SLOWER * expected.rate:
        return Badge(f"{-100 * change:.0f} % slower", "bad")
    if figure.high < SLOWER * expected.rate:
        return Badge(f"{-100 * change:.0f} % slower", "warn")
    if figure.low > expected.rate / SLOWER:
        return Badge(f"{100 * change:.0f} % faster", "good")
    return Badge("as expected", "good")


def loss_figure(facts: RunFacts) -> Shown:
    """The newest training loss."""
    steps = facts.steps
    if steps is None:
        return Shown("training loss", None, note="no step yet")
    loss, step = float(steps.loss[-1]), int(steps.step[-1])
    if not math.isfinite(loss):
        return Shown("training loss", None, note=f"not a number at step {step}", badge=Badge("not a number", "bad"))
    return Shown("training loss", round(loss, 4), "nat/token", note=f"step {step:,}")


def held_out_figure(evaluations: Mapping[int, tuple[float, float]], interval: object) -> Shown:
    """The newest loss on held-out data."""
    if not evaluations:
        when = f"first after step {interval:,}" if isinstance(interval, int) else "not evaluated yet"
        return Shown("held-out loss", None, note=when)
    step = max(evaluations)
    loss, accuracy = evaluations[step]
    if not math.isfinite(loss):
        return Shown("held-out loss", None, note=f"not a number at step {step}", badge=Badge("not a number", "bad"))
    return Shown("held-out loss", round(loss, 4), "nat/token", note=f"step {step:,}, accuracy {100 * accuracy:.1f} %")


def share_figure(facts: RunFacts) -> Shown:
    """The share of a step that ranks are blocked in collectives, now; the report's limits judge it."""
    steps = recent(facts)
    figure = None
    if steps is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            figure = _median(steps.communication_s / steps.step_s)
    badge = None
    if figure is not None:
        tone = "bad" if figure.low > COMMUNICATION_ACT else "warn" if figure.value > COMMUNICATION_WATCH else "good"
        badge = Badge("low" if tone == "good" else "high", tone)
    note = f"of a step, newest {plural(figure.n, 'step')}" if figure else ""
    return shown("communication", figure, "%", "no step yet", 100, note=note, badge=badge)


def whole_run(facts: RunFacts) -> tuple[Shown, Shown]:
    """Samples a second and communication share over all measured steps, as the report gives them."""
    rate, share = throughput(facts), communication_share(facts)
    return (
        shown("samples/s, whole run", rate, "", "no step yet", note="median of all measured steps"),
        shown("communication, whole run", share, "%", "no step yet", 100, note="median of all measured steps"),
    )


def memory_figure(table: Table) -> Shown:
    """The largest rank's resident memory."""
    ranked = table["rank_rss_bytes"]
    newest = ranked[-1] if len(ranked) else np.empty(0)
    newest = newest[np.isfinite(newest)]
    if not len(newest):
        return Shown("memory of a rank", None, note="not recorded yet")
    text = bytes_text(float(newest.max())).split()
    note = f"the largest of {plural(len(newest), 'rank')}, together {bytes_text(float(newest.sum()))}"
    return Shown("memory of a rank", float(text[0]), text[1], note=note)


def temperature_figure(sample: Mapping[str, Any], why: str) -> Shown:
    """The hottest processor; or why none is known."""
    values = np.atleast_1d(np.asarray(sample.get("rank_temperature_c", ()), np.float64))
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Shown("temperature", None, note=why)
    throttles = np.atleast_1d(np.asarray(sample.get("rank_throttles", ()), np.float64))
    slowed = float(np.nansum(throttles)) if len(throttles) else 0.0
    badge = Badge("throttling", "bad") if slowed > 0 else None
    return Shown("temperature", float(finite.max()), "°C", note="hottest processor", badge=badge)


def seconds_a_step(steps: Steps | None) -> float | None:
    """Wall time from step to step, median of the newest; what the time left is reckoned with."""
    if steps is None or len(steps) < 2:
        return None
    between = np.diff(steps.wall_time_s[-RECENT_STEPS - 1 :]) / np.diff(steps.step[-RECENT_STEPS - 1 :])
    found = float(np.median(between))
    return found if math.isfinite(found) and found > 0 else None


def _median(values: np.ndarray) -> Figure | None:
    finite = values[np.isfinite(values)]
    return median(finite) if len(finite) else None
