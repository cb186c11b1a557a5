"""The steps of a run as a page draws them: at most some thousand points, and of those only what is new. All are pure.

A point is one step, or 2, 4, 8, ... consecutive ones taken together, so that points stay what they are while steps are
added, and only the last is sent again. Lowest and highest of what was taken together are kept: a spike of one step in
a million is still seen.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from ryzen_mpi.report.run_facts import batches
from ryzen_mpi.watch.table import Table

MOST_POINTS = 1024
_TOKEN = re.compile(r"(\d{1,12})\.(\d{1,2})\.(\d{1,12})\.(\d{1,12})")


@dataclass(frozen=True)
class Since:
    """What a page has: points of `generation`, each of 2^`level` steps, `points` of them, of the newest `window`."""

    generation: int = -1
    level: int = 0
    points: int = 0
    window: int = 0

    @staticmethod
    def parse(text: str) -> Since:
        """From what `__str__` made; of any other text a page that has nothing."""
        found = _TOKEN.fullmatch(text)
        return Since(*map(int, found.groups())) if found else Since()

    def __str__(self) -> str:
        return f"{self.generation}.{self.level}.{self.points}.{self.window}"


def curves(table: Table, generation: int, since: Since, window: int = 0) -> dict[str, Any]:
    """The points after those that a page has. Points are numbered from the first step of the run on.

    Args:
        window: only the newest steps, each as a point of its own; 0: all steps.

    Returns "since" for the next time; "fresh": what the page has is to be forgotten; "begin": the first point to show;
    "first": the number of the first in "columns", from which on they take the place of the page's; "size": steps a
    point; "columns": lists of equal length, None where there is no number.
    """
    rows, level = len(table), 0
    while not window and rows >> level > MOST_POINTS:
        level += 1
    begin, points = max(0, rows - window) if window else 0, (rows + (1 << level) - 1) >> level
    fresh = (since.generation, since.level, since.window) != (generation, level, window)
    fresh |= not begin < since.points <= points  # nothing of the page's is to be kept, or it has what is no more
    first = begin if fresh else max(begin, since.points - 1)  # the last may have become longer
    return {
        "since": str(Since(generation, level, points, window)),
        "fresh": fresh,
        "begin": begin,
        "first": first,
        "size": 1 << level,
        "columns": _points(table, first << level, 1 << level),
    }


def _points(table: Table, first: int, size: int) -> dict[str, list[float | None]]:
    """Points of `size` rows each, from row `first` on."""
    step, wall, loss, seconds, waited, samples = (
        table[name][max(0, first - 1) :]
        for name in ("step", "wall_time_s", "loss", "step_s", "communication_s", "samples")
    )
    if first:  # one row more, for the samples of the first
        batch = batches(step, samples)[1:]
        step, wall, loss, seconds, waited = (column[1:] for column in (step, wall, loss, seconds, waited))
    else:
        batch = batches(step, samples)
    starts = np.arange(0, len(step), size)
    if not len(starts):
        return {name: [] for name in ("step", "time", "loss", "loss_low", "loss_high", *_RATES, "share")}
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        rate = np.where(seconds > 0, batch / seconds, np.nan)
        share = 100 * _sum(np.where(np.isfinite(seconds), waited, np.nan), starts) / _sum(seconds, starts)
        known = np.isfinite(rate)
        mean_rate = _sum(np.where(known, batch, 0), starts) / _sum(np.where(known, seconds, 0), starts)
    finite = np.where(np.isfinite(loss), loss, np.nan)
    count = np.add.reduceat(np.isfinite(finite), starts)
    with np.errstate(invalid="ignore"):
        mean_loss = np.add.reduceat(np.nan_to_num(finite), starts) / count
    ends = np.append(starts[1:], len(step)) - 1
    return {
        "step": step[ends].astype(int).tolist(),
        "time": _plain(wall[ends]),
        "loss": _plain(mean_loss),
        "loss_low": _plain(np.fmin.reduceat(finite, starts)),
        "loss_high": _plain(np.fmax.reduceat(finite, starts)),
        "rate": _plain(mean_rate),
        "rate_low": _plain(np.fmin.reduceat(rate, starts)),
        "rate_high": _plain(np.fmax.reduceat(rate, starts)),
        "share": _plain(share),
    }


_RATES = ("rate", "rate_low", "rate_high")


def _sum(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(np.nan_to_num(values), starts)


def _plain(values: np.ndarray) -> list[float | None]:
    """For JSON, which has no number that is none."""
    return [value if np.isfinite(value) else None for value in values.tolist()]


def thinned(rows: list[Any], most: int) -> list[Any]:
    """At most `most` of the rows, evenly, the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[round(at)] for at in np.linspace(0, len(rows) - 1, most)]
