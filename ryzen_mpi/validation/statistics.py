"""The statistics of the checks: pure functions of what was observed, each with its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPIKE_Z = 10.0
"""Robust z from which a value is a spike. 3.5 (Iglewicz & Hoaglin 1993) is meant for dozens of values: of a million
healthy steps it would flag hundreds."""
WINDOW = 51
"""Values a spike is judged among: what came just before and after it."""
MOST_POINTS = 1000
"""Of a series whose slopes are taken, of which there are n (n - 1) / 2."""


@dataclass(frozen=True)
class Equivalence:
    """A mean of paired differences with its two-sided interval, against the margin that is taken for "the same"."""

    mean: float
    low: float
    high: float
    n: int
    margin: float

    @property
    def holds(self) -> bool:
        """Whether the whole interval lies within the margin: only then is equivalence shown."""
        return -self.margin < self.low and self.high < self.margin


def equivalence(differences: Sequence[float], margin: float, confidence: float = 0.90) -> Equivalence:
    """Two one-sided t-tests of paired `differences` against +-`margin`, each at (1 - confidence) / 2. Pure.

    The same as asking whether the interval of that confidence lies within the margin. Source: Schuirmann 1987, J.
    Pharmacokinetics and Biopharmaceutics 15(6). Fewer than two differences, or one that is not finite, show nothing:
    the interval is infinite.
    """
    from scipy.stats import t

    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        mean = float(values.mean()) if n else math.nan
        return Equivalence(mean, -math.inf, math.inf, n, margin)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    reach = float(t.ppf((1 + confidence) / 2, n - 1)) * spread / math.sqrt(n)
    return Equivalence(mean, mean - reach, mean + reach, n, margin)


def share_bound(good: int, n: int, confidence: float = 0.95) -> float:
    """The share that is at least good, with that confidence, where `good` of `n` independent trials were. Pure.

    One-sided and exact (Clopper & Pearson 1934, Biometrika 26); for good = n it is (1 - confidence)^(1/n), the rule of
    three (Hanley & Lippman-Hand 1983, JAMA 249). 0 where there were no trials.
    """
    from scipy.stats import beta

    assert 0 <= good <= n
    return float(beta.ppf(1 - confidence, good, n - good + 1)) if good else 0.0


def trials_for(share: float, confidence: float = 0.95) -> int:
    """Trials that must all be good to claim at least `share`: 29,956 for 99.99 % at 95 %. Pure."""
    return math.ceil(math.log(1 - confidence) / math.log(share))


def rate_bound(events: int, exposure: float, confidence: float = 0.95) -> float:
    """The rate of a Poisson process that is not exceeded, with that confidence, given `events` in `exposure`. Pure.

    Source: Garwood 1936, Biometrika 28, one-sided; for no event 3.0 / exposure. Infinite where there was no exposure.
    """
    from scipy.stats import chi2

    return float(chi2.ppf(confidence, 2 * events + 2)) / 2 / exposure if exposure > 0 else math.inf


@dataclass(frozen=True)
class Slope:
    """A slope, in units of values over units of positions, with its 95 % interval; of `n` points."""

    value: float
    low: float
    high: float
    n: int

    def scaled(self, factor: float) -> Slope:
        """The slope in other units; `factor` > 0."""
        return Slope(self.value * factor, self.low * factor, self.high * factor, self.n)


def drift(positions: Sequence[float], values: Sequence[float], confidence: float = 0.95) -> Slope:
    """The median of the slopes of all pairs of points, with Sen's interval. Pure.

    Up to 29 % of the points may be anything. Sources: Theil 1950; Sen 1968, JASA 63. The interval takes the points for
    independent. A long series is thinned to medians of equal stretches. NaN where there are fewer than three points.
    """
    from scipy.stats import theilslopes

    at, values = np.asarray(positions, dtype=np.float64), np.asarray(values, dtype=np.float64)
    good = np.isfinite(at) & np.isfinite(values)
    at, values = at[good], values[good]
    if len(values) > MOST_POINTS:
        at = np.array([np.median(part) for part in np.array_split(at, MOST_POINTS)])
        values = np.array([np.median(part) for part in np.array_split(values, MOST_POINTS)])
    if len(np.unique(at)) < 3:
        return Slope(math.nan, math.nan, math.nan, len(values))
    found = theilslopes(values, at, alpha=confidence)
    return Slope(float(found.slope), float(found.low_slope), float(found.high_slope), len(values))


def spikes(values: Sequence[float], limit: float = SPIKE_Z, window: int = WINDOW) -> list[int]:
    """Places whose value rises above its neighbours by more than `limit` robust standard deviations. Pure.

    Neighbours are the `window` values around it, or the first or last of the series, less a straight line through them
    (the median of slopes half a window wide), because a loss falls. The deviation is 1.4826 times their median absolute
    one (Hampel 1974, JASA 69), and at least 0.1 % of their median, so that a nearly constant series has no spikes of
    rounding. A value that is not finite is one; it does not hide others.
    """
    series = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(series)
    found = ~finite
    kept = series[finite]
    if len(kept) >= 5:
        found[np.flatnonzero(finite)] = _rises(kept, limit, min(window, len(kept)))
    return np.flatnonzero(found).tolist()


def _rises(series: np.ndarray, limit: float, window: int) -> np.ndarray:
    count, reach = len(series) - window + 1, window // 2
    level, slope, spread = np.empty(count), np.empty(count), np.empty(count)
    place = np.arange(window) - reach
    windows = np.lib.stride_tricks.sliding_window_view(series, window)
    for start in range(0, count, 1 << 14):  # a soak has a million steps, each with a window
        part, rows = windows[start : start + (1 << 14)], slice(start, start + (1 << 14))
        slope[rows] = np.median(part[:, reach:] - part[:, : window - reach], axis=1) / reach
        straight = part - slope[rows, None] * place
        level[rows] = np.median(straight, axis=1)
        spread[rows] = np.median(np.abs(straight - level[rows, None]), axis=1)
    numbers = np.arange(len(series))
    at = np.clip(numbers - reach, 0, count - 1)
    off = series - level[at] - slope[at] * (numbers - at - reach)
    scale = np.maximum(1.4826 * spread[at], 1e-3 * np.abs(level[at]))
    return off > limit * np.maximum(scale, np.finfo(np.float64).tiny)


def robust_deviation(values: Sequence[float]) -> float:
    """The deviation of `values` from their median as a share of it, without the outliers: 1.4826 MAD / median. Pure."""
    series = np.asarray(values, dtype=np.float64)
    if not len(series) or not np.isfinite(series).all() or not (middle := float(np.median(series))):
        return math.nan
    return float(1.4826 * np.median(np.abs(series - middle)) / abs(middle))
