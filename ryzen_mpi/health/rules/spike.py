"""A loss or gradient far above those before: the step is skipped."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from ryzen_mpi.health.acts import NOBODY, Act
from ryzen_mpi.health.level import LIMIT, Level
from ryzen_mpi.health.rules.rule import Rule
from ryzen_mpi.training.look import Look

LOSS_RISE, LEAST_LOSS_RISE = 0.1, 0.05
"""A loss less than a tenth above the expected one, or less than this many nats a token, is no spike."""
NORM_RISE = math.log(3)
"""Nor is a gradient less than three times the usual one: clipping sees to it."""
OWN_RISE = math.log(5)
"""Nor a rank's own gradient less than five times the others': its samples may be harder than theirs."""
NAMED = math.log(2.5)
"""From so many times the others' on, a rank is named for a spike of the global loss or gradient."""
OF_NOBODY = "no rank's own gradient stands out"
MOST, WITHIN = 3, 20
"""After so many spikes within so many steps the level is taken for a new one and learnt anew: what it means is
`divergence`'s to say."""


class Spike(Rule):
    """Skips a step whose loss or gradient stands far above those before, and names the rank whose gradient stands out.

    Looks at: the global loss, the logarithm of the global gradient norm, and the logarithm of the largest rank's own
    gradient norm over the median of the others' at this step.
    Statistic: the rise over the median of the 15 values before, in robust standard deviations (1.4826 times the median
    absolute deviation of the newest 64 rises; Hampel 1974, JASA 69; Iglewicz & Hoaglin 1993), from z = 10 on; and in
    any case a loss 10 % higher, a gradient 3 times, one rank's 5 times as large (docs: health/level.py). What is found
    never enters the window. Only rises count, against a level of few steps: so neither the steep fall of early training
    nor the warm-up hides a spike or looks like one. The ranks are compared with one another from the first step on.
    False alarms: designed for less than one in a million steps.
    Found: at the step itself, before its update, from the 20th step of an attempt on. At most 3 within 20 steps are
    skipped, then the level counts as new.
    """

    name = "spike"

    def __init__(self) -> None:
        self._found = False
        self._loss, self._norm, self._own = Level(), Level(), Level()
        self._steps: deque[int] = deque(maxlen=MOST)
        self._step = 0

    def newest_was_bad(self) -> bool:
        """Whether the newest look was such a step."""
        return self._found

    def look(self, look: Look) -> list[Act]:
        if look.step <= self._step:
            self._forget()
        self._step, self._found = look.step, False
        if not (look.finite.all() and math.isfinite(look.loss) and math.isfinite(look.gradient_norm)):
            return []
        rank, own = foremost(look.rank_gradient_norm)
        norm = math.log(max(look.gradient_norm, 1e-300))
        reasons = self._reasons(look, norm, own)
        if not reasons:
            self._learn(look.loss, norm, own)
            return []
        self._found = True
        self._steps.append(look.step)
        named = 0 if look.ranks == 1 else rank if own > NAMED else NOBODY
        acts = [self._skip(look, reasons, named, own)]
        if len(self._steps) == MOST and look.step - self._steps[0] < WITHIN:
            self._forget()
        return acts

    def _reasons(self, look: Look, norm: float, own: float) -> dict[str, float]:
        """z of what is a spike, by what it is of."""
        floor = max(LEAST_LOSS_RISE, LOSS_RISE * abs(self._loss.expected)) if self._loss.ready else 1.0
        found = {
            "loss": self._loss.z(look.loss, floor),
            "gradient": self._norm.z(norm, NORM_RISE),
            "own": self._own.z(own, OWN_RISE) if self._own.ready else own / OWN_RISE * LIMIT,
        }
        return {what: z for what, z in found.items() if z >= LIMIT}

    def _learn(self, loss: float, norm: float, own: float) -> None:
        self._loss.learn(loss)
        self._norm.learn(norm)
        if math.isfinite(own):
            self._own.learn(own)

    def _forget(self) -> None:
        self._steps.clear()
        for level in (self._loss, self._norm, self._own):
            level.forget()

    def _skip(self, look: Look, reasons: dict[str, float], rank: int, own: float) -> Act:
        said, figures = [], {"loss": look.loss, "gradient_norm": look.gradient_norm}
        if "loss" in reasons:
            usual = figures["usual_loss"] = self._loss.expected
            said.append(f"a loss of {look.loss:.4g} where {usual:.4g} was usual (z {reasons['loss']:.1f})")
        if "gradient" in reasons:
            usual = figures["usual_gradient_norm"] = math.exp(self._norm.expected)
            said.append(f"a gradient of {look.gradient_norm:.3g} where {usual:.3g} was usual")
        if look.ranks > 1:
            whose = f"rank {rank}'s own gradient is {_times(own)} the others'" if rank != NOBODY else OF_NOBODY
            said.append(whose)
        figures |= {f"z_{what}": z for what, z in reasons.items()}
        return self.act(look, "skip", "; ".join(said), rank, **figures)


def _times(logarithm: float) -> str:
    return f"{math.exp(min(700.0, logarithm)):.3g} times"


def foremost(norms: np.ndarray) -> tuple[int, float]:
    """The rank with the largest norm, and the logarithm of how many times the median of the others' it is. Pure.

    NOBODY and -inf where fewer than two are positive numbers.
    """
    known = [(norm, -rank) for rank, norm in enumerate(norms.tolist()) if 0 < norm < math.inf]
    if len(known) < 2:
        return NOBODY, -math.inf
    known.sort()
    others, (largest, rank) = known[:-1], known[-1]
    half = len(others) // 2
    middle = others[half][0] if len(others) % 2 else (others[half - 1][0] + others[half][0]) / 2
    return -rank, math.log(largest / middle) if middle > 0 else -math.inf
