"""How much slower the slowest of P ranks is: measured log ratios of step times, and their maximum over ranks.

A rank's step takes exp(r) times its usual time. The distribution of r is the measured one up to TAIL_FROM; beyond,
where few values were seen, an exponential tail of the same mean excess (peaks over threshold: Balkema and de Haan 1974,
Pickands 1975, with shape 0). The maximum of P independent ranks has the quantile function Q(v^(1/P)). Ranks of one
machine are disturbed together; then P ranks count as 1 + theta (P - 1) independent ones, theta being the extremal index
(Leadbetter 1983), estimated at two ranks.

Ranks that take turns on a core are waited for as one: it is done when all their work is, so that its factor is the mean
of theirs, and the slowest is the maximum over cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

TAIL_FROM = 0.9
MOST_EXCESS = 0.5
"""Of the tail's mean excess: beyond, its exponential would have no mean to speak of; nothing measured comes near."""
LEVELS = np.concatenate([np.linspace(0, TAIL_FROM, 181), TAIL_FROM + (1 - TAIL_FROM) * (np.arange(20) + 0.5) / 20])
"""Of the tail the middles of equal parts, whose mean is the tail's: the largest value seen would weigh too much."""
_GRID = (np.arange(4000) + 0.5) / 4000
MOST_IN_TURN = 64
"""Of more ranks in turn the mean scatters no less than of so many: by then it hardly scatters at all."""


def quantiles(ratios: Sequence[float] | np.ndarray) -> np.ndarray:
    """[levels] quantiles of log ratios at LEVELS; zeros where there are none."""
    values = np.asarray(ratios, dtype=np.float64)
    return np.quantile(values, LEVELS) if values.size else np.zeros(len(LEVELS))


def log_ratio(curve: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The log ratio that `levels` of all steps stay below, by a `curve` of `quantiles` with its tail. Pure."""
    edge = float(np.interp(TAIL_FROM, LEVELS, curve))
    tail = curve[LEVELS > TAIL_FROM]
    excess = min(MOST_EXCESS, max(0.0, float(tail.mean()) - edge)) if tail.size else 0.0
    beyond = edge - excess * np.log(np.maximum(1e-300, (1 - levels) / (1 - TAIL_FROM)))
    return np.where(levels <= TAIL_FROM, np.interp(levels, LEVELS, curve), beyond)


def slowest(curve: np.ndarray, ranks: float) -> float:
    """Expected time of the slowest of `ranks` independent ranks, in usual times of one; `ranks` may be a fraction."""
    return float(np.exp(log_ratio(curve, _GRID ** (1.0 / ranks))).mean())


def in_turn(curve: np.ndarray, ranks: float) -> np.ndarray:
    """[levels] quantiles at LEVELS of the log of the mean factor of `ranks` independent ranks: of a core they share.

    A Latin hypercube (McKay, Beckman and Conover 1979): each rank goes through all its quantiles once, in an order of
    its own. Between whole numbers of ranks a straight line. Pure: the same at every call.
    """
    whole = int(min(ranks, MOST_IN_TURN))
    below = _in_turn(curve, whole)
    part = min(ranks, MOST_IN_TURN) - whole
    return below + part * (_in_turn(curve, whole + 1) - below) if part else below


def _in_turn(curve: np.ndarray, ranks: int) -> np.ndarray:
    if ranks <= 1:
        return curve
    factors = np.exp(log_ratio(curve, _GRID))
    return quantiles(np.log(factors[_orders(ranks)].mean(axis=0)))


@lru_cache(maxsize=8)
def _orders(ranks: int) -> np.ndarray:
    """[ranks][grid] places on the grid, each rank's in an order of its own."""
    random = np.random.default_rng(ranks)
    return np.stack([random.permutation(len(_GRID)) for _ in range(ranks)])


def independent(ranks: float, theta: float) -> float:
    """As how many independent ranks (or cores) `ranks` of them count."""
    return 1.0 + theta * (ranks - 1)


def extremal_index(curve: np.ndarray, seen: float) -> float:
    """Theta in [0, 1] at which two ranks are `seen` times as slow as one usually is."""
    thetas = np.linspace(0, 1, 21)
    times = np.array([slowest(curve, 1 + theta) for theta in thetas])
    return float(np.interp(seen, times, thetas)) if times[-1] > times[0] else 0.0


def draw(curve: np.ndarray, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Factors of single steps."""
    return np.exp(log_ratio(curve, random.random(shape)))
