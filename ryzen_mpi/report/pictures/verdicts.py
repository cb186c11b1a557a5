"""How far the figures of a gate are from their thresholds, and a trend over days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ryzen_mpi.report.content import Picture, Tone
from ryzen_mpi.report.pictures.canvas import SERIES, Size, colour, name_axes, picture
from ryzen_mpi.report.texts import clean, moment_text, number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHAPES = {"good": "o", "bad": "X", "warn": "D", "unknown": "s", "plain": "o"}
_FARTHEST = 4.0
"""Times the threshold, up or down; what is beyond is an arrow at the edge."""


@dataclass(frozen=True)
class Margin:
    """A figure over its threshold, turned so that more than 1 is on the good side; `low` and `high` of its interval."""

    name: str
    figure: str
    ratio: float
    low: float
    high: float
    tone: Tone
    verdict: str


def margins(rows: Sequence[Margin]) -> Picture:
    """Every figure beside its threshold, which is the line at 1; to the right is better."""

    def draw(figure: Figure, size: Size) -> None:
        axes = figure.subplots()
        axes.axvline(1, color=colour("ink"), linewidth=1.2)
        for place, row in enumerate(rows):
            low, value, high = (float(np.clip(v, 1 / _FARTHEST, _FARTHEST)) for v in (row.low, row.ratio, row.high))
            axes.plot(
                [low, high], [place, place], color=colour(row.tone), linewidth=5, alpha=0.3, solid_capstyle="butt"
            )
            shape = ">" if row.ratio > _FARTHEST else "<" if row.ratio < 1 / _FARTHEST else _SHAPES[row.tone]
            axes.plot(value, place, color=colour(row.tone), marker=shape, markersize=9, linestyle="none")
        axes.set_yticks(
            range(len(rows)),
            [_short(row.figure if size.narrow else row.name, 19 if size.narrow else 44) for row in rows],
        )
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=True, axis="both")
        _ratio_axis(axes, rows, size)
        name_axes(axes, "times its threshold" + ("" if size.narrow else "; right of the line is better"), "")

    said = "; ".join(f"{row.name}: {number_text(row.ratio)} times, {row.verdict}" for row in rows)
    height = 90 + 25 * len(rows)
    return picture("margins", "How far from the thresholds", said, draw, height, height + 30)


def _ratio_axis(axes: Axes, rows: Sequence[Margin], size: Size) -> None:
    """Logarithmic, so that half and twice are as far; wide enough for what is shown."""
    from matplotlib.ticker import FixedLocator, NullLocator

    most = max([1.3, *(max(row.high, 1 / max(row.low, 1e-9)) for row in rows)])
    most = min(_FARTHEST, most) * 1.1
    axes.set_xscale("log")
    axes.set_xlim(1 / most, most)
    crowded = () if most < 1.5 else (0.8, 0.9, 1.1, 1.25) if size.narrow else (0.9, 1.1)
    ticks = [t for t in (0.25, 0.5, 0.8, 0.9, 1, 1.1, 1.25, 2, 4) if 1 / most < t < most and t not in crowded]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick:g}" for tick in ticks])


def _short(text: str, most: int) -> str:
    text = clean(text)
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class Point:
    """One value of a trend."""

    moment_s: float
    value: float
    low: float | None = None
    high: float | None = None
    what: str = ""


def trend(
    name: str, title: str, unit: str, points: Sequence[Point], target: float | None = None, height: float = 250
) -> Picture:
    """Values over days with their intervals, and the target, if there is one, as a line."""
    days = np.array([point.moment_s for point in points]) / 86400
    days = days - days.max()
    unit_s, label = (1.0, "days before the last") if days.min() < -2 else (1 / 24, "hours before the last")

    def draw(figure: Figure, size: Size) -> None:
        axes, tint = figure.subplots(), colour(SERIES[0])
        x, y = days / unit_s, [point.value for point in points]
        for place, point in zip(x, points, strict=True):
            if point.low is not None and point.high is not None:
                axes.plot(
                    [place, place], [point.low, point.high], color=tint, alpha=0.3, linewidth=6, solid_capstyle="butt"
                )
        axes.plot(x, y, color=tint, marker="o", markersize=6, linewidth=1.4)
        if target is not None:
            axes.axhline(target, color=colour("ink"), linewidth=1.2, linestyle=(0, (4, 3)))
            axes.annotate(
                f"target {number_text(target)}", (0, target), xycoords=("axes fraction", "data"), xytext=(2, 4),
                textcoords="offset points", color=colour("ink"),
            )  # fmt: skip
        axes.set_ylim(bottom=0, top=1.15 * max([*y, *(p.high or 0 for p in points), target or 0]) or 1)
        if len(points) == 1:
            axes.set_xlim(-1, 1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        name_axes(axes, label, "" if unit in ("", "1") else unit)

    said = "; ".join(f"{moment_text(p.moment_s)}: {number_text(p.value)} {unit}" for p in points[-12:])
    return picture(name, title, said, draw, height, min(height, 250))
