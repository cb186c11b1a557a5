"""A loss or gradient far above those before: the step is skipped."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

from ryzen_mpi.health.acts import NOBODY, Act
from ryzen_mpi.health.level import LIMIT, Level
from ryzen_mpi.health.rules.rule import Rule, node_of
from ryzen_mpi.training.look import Look

LOSS_RISE, LEAST_LOSS_RISE = 0.1, 0.05
"""A loss less than a tenth above the expected one, or less than this many nats a token, is no spike."""
NORM_RISE, NORM_ALONE = math.log(6), math.log(20)
"""Nor is a gradient less than six times the usual one; twenty times, where the loss has not risen: clipping sees to
it. At the end of the warm-up a healthy run had gradients 8 times the usual one, with losses as before."""
OWN_RISE = math.log(6)
"""Nor a rank's own gradient less than six times the next rank's: its samples may be harder than theirs."""
OWN_LIMIT, LEAST_OWN_RISE = 6.0, 0.5
"""z of a rank's own gradient, which needs the global one's word besides, and the rise that never has it."""
GREATER = math.log(2)
"""A rank's own gradient must exceed those skipped long before by so much: where the learning rate is highest, a small
batch can have a gradient 12 times the others' with an ordinary loss. Skipping all of them would be a habit."""
UNEXPLAINED = math.log(1.5)
"""Of the rise of the global gradient beyond what one rank's can have added: more was not that rank alone."""
ALONE = 15.0
"""z from which a loss or norm is a spike by itself; from LIMIT on where the other one has risen too: ..."""
NORM_TOO, LOSS_TOO = 2.5, 5.0
"""... z of the norm beside a loss (or a rank's own gradient), and of the loss beside a norm, ..."""
LEAST_NORM_TOO, LEAST_LOSS_TOO = math.log(1.2), 0.02
"""... and the rises they have at least, the loss's as a share of it."""
NAMED = math.log(2.5)
"""From so many times the next rank's on, a rank is named for a spike of the global loss or gradient."""
MOST, WITHIN = 3, 20
"""So many steps within so many are skipped at most; further spikes are `divergence`'s business."""
ACCEPTED = 6
"""After so many further ones the level is taken for a new one and learnt anew."""


class Spike(Rule):
    """Skips a step whose loss or gradient stands far above those before, and names the rank whose gradient stands out.

    Looks at: the global loss, the logarithm of the global gradient norm, and the logarithm of the largest rank's own
    gradient norm over the next rank's at this step.
    Statistic: the rise over the median of the 15 values before, in robust standard deviations (1.4826 times the median
    absolute deviation of the newest 64 changes from step to step, over the square root of two; Hampel 1974, JASA 69;
    von Neumann et al. 1941; Iglewicz & Hoaglin 1993; health/level.py tells why): z of 15, or of 10 where loss and
    gradient rise together; in any case a loss 10 % higher or a gradient 6 times as large, 20 times without the loss. A
    rank's own gradient: z of 6 and 6 times the next rank's, where it is what moves the global one: by half of what it
    must add to it at least, by no more than it can add, and by 2.5 deviations. What is found never enters the window.
    Only rises count, against the level of few steps: so neither the steep fall of early training nor the warm-up hides
    a spike or looks like one.
    False alarms: designed for less than one in a million steps; a rank's own gradient apart, of which small batches
    have large ones: each must be twice the largest skipped 20 steps or more before, so these are few in a run, and
    they are nothing to `divergence`.
    Found: at the step itself, before its update, from the 20th step of an attempt on; a rank's gradient, 6 times the
    next one's, from the first. At most 3 within 20 steps are skipped; after 6 more the level counts as new.
    """

    name = "spike"

    def __init__(self) -> None:
        self._found = False
        self._loss, self._norm, self._own = Level(), Level(), Level()
        self._skipped: deque[int] = deque(maxlen=MOST)
        self._own_skipped: list[tuple[int, float]] = []  # steps at which a rank's own gradient was, and how large
        self._step, self._further = 0, 0

    def newest_was_bad(self) -> bool:
        """Whether the newest look was such a step; a rank's own gradient alone does not count."""
        return self._found

    def look(self, look: Look) -> list[Act]:
        if look.step <= self._step:
            self._forget()
        self._step, self._found = look.step, False
        if not (math.isfinite(look.loss) and math.isfinite(look.gradient_norm) and look.finite.all()):
            return []
        rank, own = foremost(look.rank_gradient_norm)
        norm = math.log(max(look.gradient_norm, 1e-300))
        reasons = self._reasons(look, norm, own)
        if not reasons:
            self._learn(look.loss, norm, own)
            return []
        self._found = set(reasons) != {"own"}
        if len(self._skipped) == MOST and look.step - self._skipped[0] < WITHIN:
            self._further += 1
            if self._further >= ACCEPTED:
                self._forget()
            return []
        self._further = 0
        self._skipped.append(look.step)
        if not self._found:
            self._own_skipped.append((look.step, own))
        return [self._skip(look, reasons, rank, own)]

    def _reasons(self, look: Look, norm: float, own: float) -> dict[str, float]:
        """z of what is a spike, by what it is of."""
        rises = self._loss.rise(look.loss), self._norm.rise(norm)
        floor = loss_floor(self._loss)
        found = {}
        if rises[0] >= floor:
            z = self._loss.z(rises[0], floor)
            if z >= ALONE or z >= LIMIT and self._norm_too(rises[1]):
                found["loss"] = z
        if rises[1] >= NORM_RISE:
            z = self._norm.z(rises[1], NORM_RISE)
            alone = z >= ALONE and rises[1] >= NORM_ALONE
            if alone or z >= LIMIT and self._loss_too(rises[0]):
                found["gradient"] = z
        before = [seen + GREATER for step, seen in self._own_skipped if step <= look.step - WITHIN]
        least = max(before, default=OWN_RISE)
        if own >= least and (z := self._z_of_own(own, rises[1], look.ranks)) >= OWN_LIMIT:
            found["own"] = z
        return found

    def _z_of_own(self, own: float, rise: float, ranks: int) -> float:
        """Of a rank's own gradient, exp(own) times the others'; 0 where it isn't what moves the global one."""
        if not (self._own.ready and self._norm.ready):
            return own / OWN_RISE * OWN_LIMIT
        times = math.exp(min(300.0, own))
        must_add = math.log1p((times - 1) / ranks)  # where all point the same way
        can_add = math.log1p((times * times - 1) / ranks) / 2  # where they are perpendicular
        unexplained = max(UNEXPLAINED, NORM_TOO * self._norm.deviation)
        if not must_add / 2 <= rise <= can_add + unexplained or not self._norm_too(rise):
            return 0.0
        return self._own.z(self._own.rise(own), LEAST_OWN_RISE * LIMIT / OWN_LIMIT)

    def _norm_too(self, rise: float) -> bool:
        return rise >= LEAST_NORM_TOO and self._norm.z(rise) >= NORM_TOO

    def _loss_too(self, rise: float) -> bool:
        return rise >= LEAST_LOSS_TOO * abs(self._loss.expected) and self._loss.z(rise) >= LOSS_TOO

    def _learn(self, loss: float, norm: float, own: float) -> None:
        self._loss.learn(loss)
        self._norm.learn(norm)
        if math.isfinite(own):
            self._own.learn(own)

    def _forget(self) -> None:
        self._skipped.clear()
        self._further = 0
        for level in (self._loss, self._norm, self._own):
            level.forget()

    def _skip(self, look: Look, reasons: dict[str, float], rank: int, own: float) -> Act:
        named = 0 if look.ranks == 1 else rank if own > NAMED else NOBODY
        said, figures = [], {"loss": look.loss, "gradient_norm": look.gradient_norm}
        if "loss" in reasons:
            usual = figures["usual_loss"] = self._loss.expected
            said.append(f"a loss of {look.loss:.4g} where {usual:.4g} was usual (z {reasons['loss']:.1f})")
        if "gradient" in reasons:
            usual = figures["usual_gradient_norm"] = math.exp(min(700.0, self._norm.expected))
            said.append(f"a gradient of {look.gradient_norm:.3g} where {usual:.3g} was usual")
        if look.ranks > 1 and named != NOBODY:
            where = f" on {host}" if (host := node_of(look, rank)) else ""
            said.append(
                f"the own gradient of rank {rank}{where} is {math.exp(min(700.0, own)):.3g} times the next rank's"
            )
        elif look.ranks > 1:
            said.append("no rank's own gradient stands out")
        figures |= {f"z_{what}": z for what, z in reasons.items()}
        return self.act(look, "skip", "; ".join(said), named, **figures)


def loss_floor(level: Level) -> float:
    """The least rise of a loss that may be a spike; infinite where nothing can be judged yet."""
    return max(LEAST_LOSS_RISE, LOSS_RISE * abs(level.expected)) if level.ready else math.inf


def loss_spikes(losses: Iterable[float]) -> list[int]:
    """The places of a series of losses that the rule finds to be spikes by themselves, without their gradients. Pure.

    What is not finite is left out. After as many in a row as the rule takes for a new level, it is one.
    """
    level, found, in_a_row = Level(), [], 0
    for place, loss in enumerate(losses):
        if not math.isfinite(loss):
            continue
        floor, rise = loss_floor(level), level.rise(loss)
        if rise < floor or level.z(rise, floor) < ALONE:
            level.learn(loss)
            in_a_row = 0
            continue
        found.append(place)
        in_a_row += 1
        if in_a_row == MOST + ACCEPTED:
            level.forget()
    return found


def foremost(norms: np.ndarray) -> tuple[int, float]:
    """The rank with the largest norm, and the logarithm of how many times the next one's it is. Pure.

    NOBODY and minus infinity where fewer than two are positive numbers.
    """
    known = sorted((norm, -rank) for rank, norm in enumerate(norms.tolist()) if 0 < norm < math.inf)
    if len(known) < 2:
        return NOBODY, -math.inf
    (next_one, _), (largest, rank) = known[-2:]
    return -rank, math.log(largest / next_one)
