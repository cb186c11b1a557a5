"""The newest values of a series with their median and spread, kept so that a step costs microseconds."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

NORMAL = 1.4826
"""The median absolute deviation times this is a normal distribution's standard deviation (Hampel 1974, JASA 69)."""


class Window:
    """The newest `size` finite values, in order of age and of size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: deque[float] = deque()
        self._ordered: list[float] = []

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float) -> None:
        """The oldest gives way. What is not finite is not taken."""
        if not math.isfinite(value):
            return
        if len(self.values) == self.size:
            del self._ordered[bisect_left(self._ordered, self.values.popleft())]
        self.values.append(value)
        insort(self._ordered, value)

    def clear(self) -> None:
        self.values.clear()
        self._ordered.clear()

    def quantile(self, share: float) -> float:
        """The value that `share` of them do not exceed: an order statistic, no interpolation. Not of none."""
        return self._ordered[min(len(self._ordered) - 1, int(share * len(self._ordered)))]

    @property
    def median(self) -> float:
        """Of an even number the mean of the two in the middle. Not of none."""
        return _middle(self._ordered)

    @property
    def deviation(self) -> float:
        """Robust standard deviation: 1.4826 times the median absolute deviation from the median. Not of none."""
        middle = self.median
        return NORMAL * _middle(sorted([abs(value - middle) for value in self._ordered]))


def _middle(ordered: list[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
