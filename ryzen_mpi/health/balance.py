"""How the ranks compute against one another: what the monitor, reports and benchmarks call slow."""

from __future__ import annotations

import numpy as np


def over_others(times: np.ndarray) -> np.ndarray:
    """The share by which each rank's time exceeds the median of the others' at the same step. Pure.

    `times` has shape (..., ranks); so has the result, all NaN for one rank. NaN in a step makes that step's NaN.
    """
    ranks = times.shape[-1]
    if ranks < 2:
        return np.full(times.shape, np.nan)
    # Without the rank itself, what lies above it in order moves down by one place.
    ordered = np.sort(times, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        others = _without(times, ordered, (ranks - 2) // 2) + _without(times, ordered, (ranks - 1) // 2)
        return times / np.where(np.isnan(ordered[..., -1:]), np.nan, others / 2) - 1


def _without(times: np.ndarray, ordered: np.ndarray, place: int) -> np.ndarray:
    """What stands at `place` of the ordered times without each rank's own."""
    below, above = ordered[..., place, None], ordered[..., place + 1, None]
    return np.where(times <= below, above, below)
