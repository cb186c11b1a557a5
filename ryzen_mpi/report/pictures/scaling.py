"""Scaling against the ideal line, with confidence bands, and the factors an efficiency is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ryzen_mpi.figures import Figure as Known
from ryzen_mpi.report.content import Picture
from ryzen_mpi.report.pictures.canvas import DASHES, MARKERS, SERIES, Size, colour, legend, name_axes, picture
from ryzen_mpi.report.scaling_facts import FACTORS, ScalingFacts, Series
from ryzen_mpi.report.texts import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def throughput(facts: ScalingFacts) -> Picture:
    """Samples a second over ranks: each series with its band, and the ideal line of its first point."""
    series = facts.series

    def draw(figure: Figure, size: Size) -> None:
        axes = figure.subplots()
        for number, one in enumerate(series):
            ranks = np.array([point.ranks for point in one.points])
            _band(axes, ranks, [point.throughput for point in one.points], number, f"{one.mode}, measured")
            base = one.points[0]
            axes.plot(
                ranks, base.throughput.value * ranks / base.ranks, color=colour("soft"), linewidth=1.2,
                linestyle=(0, (4, 3)), label="ideal" if number == 0 else None,
            )  # fmt: skip
        _rank_axis(axes, series)
        axes.set_ylim(bottom=0)
        name_axes(axes, "ranks", "throughput, samples/s")
        legend(axes, size)

    said = "; ".join(
        f"{one.mode}: " + ", ".join(f"{number_text(p.throughput.value)} samples/s on {p.ranks}" for p in one.points)
        for one in series
    )
    return picture("throughput", "Throughput over ranks", f"{said}. The dashed line is ideal.", draw, 330, 320)


def efficiency(series: Series) -> Picture:
    """Parallel efficiency with its band, and the three factors whose product it is (POP)."""

    def draw(figure: Figure, size: Size) -> None:
        axes = figure.subplots()
        ranks = np.array([point.ranks for point in series.points])
        axes.axhline(100, color=colour("soft"), linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            "100 %", (1, 100), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            ha="right", va="bottom", color=colour("soft"),
        )  # fmt: skip
        _band(axes, ranks, [_percent(point.efficiency) for point in series.points], 0, "efficiency")
        for number, (name, text) in enumerate(FACTORS.items(), 1):
            known = [(p.ranks, _percent(p.factors[name])) for p in series.points if p.factors.get(name) is not None]
            if known:
                places, figures = zip(*known, strict=True)
                _band(axes, np.array(places), figures, number, text)
        _rank_axis(axes, [series])
        shown = [point.efficiency.low for point in series.points]
        shown += [factor.low for point in series.points for factor in point.factors.values() if factor is not None]
        axes.set_ylim(bottom=max(0, 10 * np.floor(10 * min(shown)) - 10))
        name_axes(axes, "ranks", f"{series.mode} scaling, %")
        legend(axes, size)

    said = ", ".join(f"{number_text(100 * p.efficiency.value)} % on {p.ranks} ranks" for p in series.points)
    title = f"Efficiency and what it is made of, {series.mode} scaling"
    return picture(f"efficiency-{series.mode}", title, f"Efficiency {said}.", draw, 330, 340)


def _percent(figure: Known) -> Known:
    return figure.mapped(lambda share: 100 * share)


def _band(axes: Axes, x: np.ndarray, figures: Sequence[Known], number: int, label: str) -> None:
    """A line with markers in a band from the intervals' lower to their upper bounds."""
    tint, values = colour(SERIES[number]), [figure.value for figure in figures]
    low, high = [figure.low for figure in figures], [figure.high for figure in figures]
    axes.fill_between(x, low, high, color=tint, alpha=0.18, linewidth=0)
    axes.plot(x, values, color=tint, marker=MARKERS[number], linestyle=DASHES[number], markersize=6, label=label)
    if len(x) == 1:
        axes.errorbar(x, values, [[values[0] - low[0]], [high[0] - values[0]]], color=tint, capsize=4)


def _rank_axis(axes: Axes, series: Sequence[Series]) -> None:
    """A logarithmic axis with the measured numbers of ranks on it."""
    from matplotlib.ticker import NullLocator

    ranks = sorted({point.ranks for one in series for point in one.points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.xaxis.set_minor_locator(NullLocator())
