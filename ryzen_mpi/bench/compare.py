"""Two sides of one measurement against each other, and whether a figure reached what was asked of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ryzen_mpi.bench.disturbance import OTHERS_SHARE
from ryzen_mpi.bench.measure import Samples
from ryzen_mpi.figures import Figure, median

FEWEST_ROUNDS = 6
"""Fewer have no 95 % interval (Conover 1999, section 3.2)."""


@dataclass(frozen=True)
class Comparison:
    """What one side took of another's time, over the rounds in which nothing disturbed either.

    Attributes:
        figure: None where too few rounds were quiet.
        rounds, quiet: measured, and counted.
        others: share of the cores' time that other programs took meanwhile.
    """

    figure: Figure | None
    rounds: int
    quiet: int
    others: float


def compare(left: Samples, right: Samples, how: Literal["ratio", "excess_us"] = "ratio") -> Comparison:
    """left / right, or left - right in microseconds, of the medians of each round. Local.

    The sides of a round were measured milliseconds apart: what changes slowly is the same for both.
    """
    ours, theirs = left.round_medians_ns(), right.round_medians_ns()
    values = ours / theirs if how == "ratio" else (ours - theirs) / 1e3
    return _quiet_median(values, left.quiet() & right.quiet(), left.others)


def allowance(left: Samples, right: Samples, factor: float, extra_us: float) -> Comparison:
    """left / (right times `factor` plus `extra_us`): at most 1 where left keeps to what it is allowed. Local."""
    values = left.round_medians_ns() / (right.round_medians_ns() * factor + extra_us * 1e3)
    return _quiet_median(values, left.quiet() & right.quiet(), left.others)


def _quiet_median(values: np.ndarray, quiet: np.ndarray, others: float) -> Comparison:
    enough = int(quiet.sum()) >= min(FEWEST_ROUNDS, len(values)) and not others > OTHERS_SHARE
    figure = median(values[quiet]) if enough else None
    return Comparison(figure, len(values), int(quiet.sum()), others)


@dataclass(frozen=True)
class Target:
    """A line of the table: what against what, and the bound.

    Attributes:
        what, against: for people.
        bound: at least this (`least`) or at most this, at every size.
        unit: of figure and bound: "x" is a ratio.
    """

    what: str
    against: str
    bound: float
    least: bool
    unit: str = "x"

    def met(self, figure: Figure) -> bool:
        """Whether the median keeps to the bound. Local."""
        return figure.value >= self.bound if self.least else figure.value <= self.bound

    def judged(self, by_size: dict[int, Comparison]) -> dict[str, Any]:
        """The line with its figures and its verdict, JSON-able. Local.

        A size that was disturbed has no figure and no say; the verdict tells how many sizes it rests on.
        """
        known = {size: item.figure for size, item in by_size.items() if item.figure is not None}
        if not known:
            verdict = "not measured: disturbed"
        else:
            verdict = "reached" if all(self.met(figure) for figure in known.values()) else "not reached"
            if len(known) < len(by_size):
                verdict += f" ({len(known)} of {len(by_size)} sizes, the others were disturbed)"
        figures = [
            {
                "bytes": size,
                "rounds": item.rounds,
                "quiet_rounds": item.quiet,
                "others_share": None if item.others != item.others else item.others,
                **(asdict(item.figure) if item.figure is not None else {"value": None}),
            }
            for size, item in by_size.items()
        ]
        return asdict(self) | {"figures": figures, "verdict": verdict}
