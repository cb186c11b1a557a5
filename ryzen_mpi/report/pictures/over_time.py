"""Throughput and loss of a run over time, restarts marked; a trend over days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ryzen_mpi.report.content import Picture
from ryzen_mpi.report.pictures.canvas import Size, colour, name_axes, picture
from ryzen_mpi.report.run_facts import RunFacts, Steps
from ryzen_mpi.report.run_measures import thinned
from ryzen_mpi.report.texts import number_text, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 260
_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


def run_over_time(facts: RunFacts) -> Picture | None:
    """Throughput above, loss below, on one time axis with the restarts; None where no step was recorded."""
    steps = facts.steps
    if steps is None:
        return None
    x, label = _time_axis(steps)
    marks = _restart_places(facts, steps, x)

    def draw(figure: Figure, size: Size) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        _curve(upper, x, steps.rates(), "s1")
        upper.set_ylim(0, 1.2 * _highest(steps.rates()))
        name_axes(upper, "", "throughput, samples/s")
        _curve(lower, x, np.where(np.isfinite(steps.loss), steps.loss, np.nan), "s2")
        _held_out(lower, facts, steps, x)
        name_axes(lower, label, "loss, nat/token")
        for axes in (upper, lower):
            for place in marks:
                axes.axvline(place, color=colour("ink"), linewidth=1, linestyle=(0, (3, 3)))
        for number, place in enumerate(marks[:9], 1):
            upper.annotate(
                f"{number}", (place, 1), xycoords=("data", "axes fraction"), xytext=(4, -3), va="top",
                textcoords="offset points", color=colour("ink"), fontweight="bold",
            )  # fmt: skip

    rates = steps.rates()
    words = (
        f"Throughput of {plural(len(steps), 'step')} between {_least(rates)} and {_most(rates)} samples/s; loss from "
        f"{_end(steps.loss, 0)} to {_end(steps.loss, -1)} nat/token. "
        + (f"{plural(len(marks), 'restart')} marked by dashed lines." if marks else "No restart.")
    )
    return picture("over-time", "Throughput and loss over time", words, draw, 380, 390)


def _time_axis(steps: Steps) -> tuple[np.ndarray, str]:
    """Time since the start in a fitting unit; the steps themselves where pauses would be most of the axis."""
    wall = steps.wall_time_s - steps.wall_time_s[0]
    gaps = np.diff(wall)
    long = gaps[gaps > 20 * max(float(np.median(gaps)), 1e-9)] if len(gaps) else gaps
    if not np.all(np.isfinite(wall)) or (len(gaps) and (long.sum() > 0.5 * wall[-1] or gaps.min() < 0)):
        return steps.step.astype(float), "step"
    for least, seconds, name in _UNITS:
        if wall[-1] >= least:
            return wall / seconds, f"{name} since the first step"
    raise AssertionError("the last unit takes all")


def _restart_places(facts: RunFacts, steps: Steps, x: np.ndarray) -> list[float]:
    """Where the restarts lie on the axis: before the first step that was trained after each."""
    rows = [np.searchsorted(steps.step, r.step + 1) for r in facts.restarts if r.step is not None]
    return [float(x[row]) for row in rows if row < len(x)]


def _curve(axes: Axes, x: np.ndarray, y: np.ndarray, name: str) -> None:
    """The medians of neighbouring steps as a line, the steps themselves pale behind it."""
    thin_x, thin_y = thinned(x, y, POINTS)
    if len(x) > 60:
        smooth_x, smooth_y = thinned(x, y, 40)
        axes.plot(thin_x, thin_y, color=colour(name), alpha=0.35, linewidth=1)
        axes.plot(smooth_x, smooth_y, color=colour(name))
    else:
        axes.plot(thin_x, thin_y, color=colour(name), marker="o" if len(x) < 25 else None, markersize=4)


def _held_out(axes: Axes, facts: RunFacts, steps: Steps, x: np.ndarray) -> None:
    rows = np.searchsorted(steps.step, [step for step, *_ in facts.held_out])
    at = [(float(x[row]), loss) for row, (_, loss, _) in zip(rows, facts.held_out, strict=True) if row < len(x)]
    at = [point for point in at if np.isfinite(point[1])]
    if at:
        axes.plot(*zip(*at, strict=True), color=colour("s3"), marker="D", markersize=6, linestyle="none")
        axes.annotate(
            "held-out", at[-1], xytext=(-8, 10), textcoords="offset points", ha="right", color=colour("good")
        )  # fmt: skip


def _least(values: np.ndarray) -> str:
    return number_text(float(np.nanmin(values))) if np.isfinite(values).any() else "unknown"


def _highest(values: np.ndarray) -> float:
    """A bound of the axis: what nearly all stay below, so that one odd step flattens nothing."""
    finite = values[np.isfinite(values)]
    return float(max(np.quantile(finite, 0.99), 1e-9)) if len(finite) else 1.0


def _most(values: np.ndarray) -> str:
    return number_text(float(np.nanmax(values))) if np.isfinite(values).any() else "unknown"


def _end(values: np.ndarray, row: int) -> str:
    return number_text(float(values[row]))
