"""Figures with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Figure:
    """A median with the bounds of its confidence interval; `n` observations behind it."""

    value: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    def mapped(self, function) -> Figure:
        """The figure under a monotone `function`, such as seconds a step -> samples a second."""
        low, high = sorted((function(self.low), function(self.high)))
        return Figure(function(self.value), low, high, self.n, self.confidence)


def median(values: Sequence[float], confidence: float = 0.95) -> Figure:
    """The median and its distribution-free interval from order statistics.

    Source: Conover 1999, Practical Nonparametric Statistics, section 3.2. Fewer than six values give the range, which
    then holds less than the confidence asked for; the figure says how much it does hold.
    """
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n == 0:
        return Figure(float("nan"), float("nan"), float("nan"), 0, confidence)
    rank = int(binom.ppf((1 - confidence) / 2, n, 0.5))
    while rank > 0 and 1 - 2 * binom.cdf(rank - 1, n, 0.5) < confidence:
        rank -= 1
    covered = float(1 - 2 * binom.cdf(rank - 1, n, 0.5)) if rank > 0 else float(1 - 2 * 0.5**n)
    low = ordered[max(0, rank - 1)]
    high = ordered[min(n - 1, n - max(1, rank))]
    return Figure(float(np.median(ordered)), float(low), float(high), n, confidence if rank > 0 else covered)
