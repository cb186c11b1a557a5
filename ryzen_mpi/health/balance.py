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
    # The median of the others is the middle of the ordered ones without the rank itself: those above it move down.
    order = np.argsort(times, axis=-1)
    ordered = np.take_along_axis(times, order, axis=-1)
    place, low, high = np.arange(ranks), (ranks - 2) // 2, (ranks - 1) // 2
    others = (ordered[..., low + (place <= low)] + ordered[..., high + (place <= high)]) / 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios = ordered / others - 1
    result = np.empty_like(ratios)
    np.put_along_axis(result, order, ratios, axis=-1)
    return np.where(np.isnan(times).any(axis=-1, keepdims=True), np.nan, result)
