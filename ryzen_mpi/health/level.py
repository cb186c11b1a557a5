"""How far a value of a drifting series lies above those just before it, in robust standard deviations."""

from __future__ import annotations

import math

from ryzen_mpi.health.window import Window

NEAR = 15
"""Values whose median is what the next one is expected to be: short, because a loss falls and a norm drifts."""
MEMORY = 64
"""Changes from one value to the next that the usual deviation is learnt from."""
ENOUGH = 20
"""Values before the first judgement."""
LIMIT = 10.0
"""z from which a value may be a spike. 3.5 (Iglewicz & Hoaglin 1993, How to Detect and Handle Outliers) is meant for
dozens of values: of a million healthy steps it would flag hundreds."""


class Level:
    """Judges one value after the other by those before it.

    The rise of a value is what it exceeds the median of the NEAR values before it by. Its z is the rise over the robust
    deviation of a single value: the median absolute one (Hampel 1974) of the newest MEMORY changes from one value to
    the next, over the square root of two. From changes, because a trend is not in them (mean square successive
    difference: von Neumann, Kent, Bellinson, Hart 1941, Annals of Mathematical Statistics 12(2)): so the steep fall of
    a loss does not widen the deviation and hide a spike.
    """

    def __init__(self) -> None:
        self._near, self._changes = Window(NEAR), Window(MEMORY)

    @property
    def ready(self) -> bool:
        """Whether enough values are known to judge the next."""
        return len(self._changes) >= ENOUGH - 1

    @property
    def expected(self) -> float:
        """What the next value is expected to be. Not before the first value."""
        return self._near.median

    @property
    def deviation(self) -> float:
        """Of a single value from what is expected. Not before the second value."""
        return self._changes.deviation / math.sqrt(2)

    def rise(self, value: float) -> float:
        """What it exceeds the expected value by; minus infinity where too few are known."""
        return value - self.expected if self.ready else -math.inf

    def z(self, rise: float, floor: float = 0.0) -> float:
        """Of a rise, in robust deviations, these taken for `floor` / LIMIT at least: so no rise below `floor` has a z
        of LIMIT, however quiet the series was. 0 where it is none, or too few values are known."""
        if not (self.ready and rise > 0):
            return 0.0
        spread = max(self.deviation, floor / LIMIT)
        return rise / spread if spread > 0 else math.inf

    def learn(self, value: float) -> None:
        """Takes a finite value that is no spike among those the next ones are judged by."""
        if self._near.values:
            self._changes.add(value - self._near.values[-1])
        self._near.add(value)

    def forget(self) -> None:
        """Starts anew: what follows is of another level."""
        self._near.clear()
        self._changes.clear()
