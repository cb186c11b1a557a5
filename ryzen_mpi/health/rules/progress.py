"""Steps that take several times as long as usual, checkpoints that do not come: told."""

from __future__ import annotations

import math

import numpy as np

from ryzen_mpi.health.acts import Act
from ryzen_mpi.health.rules.rule import Rule
from ryzen_mpi.health.window import Window
from ryzen_mpi.training.look import Look
from ryzen_mpi.units import duration_text

WINDOW, ENOUGH = 64, 30
"""Steps whose median duration is the usual one, and how many are needed for it."""
TIMES, STREAK, STREAK_S = 4.0, 5, 60.0
"""Told where so many steps on end took so many times as long as usual, and so many seconds in all: a
busy machine has stalls of ten (7 steps of 1.7 s where 0.24 was usual, a healthy run beside others)."""
OVER_TIMES, OVER_STREAK = 2.0, 5
ACCEPTED = 500
"""Steps after which what was told is taken for usual."""
LATE, LATE_STEPS = 2, 20
"""Checkpoints are late from so many save intervals and steps after the newest on."""


class Progress(Rule):
    """Tells that training no longer comes forward: slow steps on end, and checkpoints that are not on disk.

    Looks at: the duration of the step before on the slowest rank; the step of the newest checkpoint, where the gauges
    tell `checkpoint_step`. A step that never ends is no look: that is for the supervisor.
    Statistic: 5 steps on end of 4 times the median of the newest 64 usual ones (the others are not learnt), which took
    60 s together. A checkpoint 2 save intervals and 20 steps old.
    False alarms: designed for less than one in a million steps; single slow steps, however slow, are none.
    Found: within 5 steps (or 60 s, where 5 such steps are shorter); a missing checkpoint 20 steps after the second save
    that should have been. Told once, and when it is over.
    """

    name = "progress"

    def __init__(self, save_interval: int = 0) -> None:
        self._save_interval = save_interval
        self._usual = Window(WINDOW)
        self._streak, self._streak_s, self._back = 0, 0.0, 0
        self._told_at, self._late_told = -1, False
        self._first_step, self._step = 0, 0

    def look(self, look: Look) -> list[Act]:
        if look.step != self._step + 1:
            self._first_step, self._late_told, self._told_at = look.step, False, -1
            self._streak, self._streak_s = 0, 0.0
        self._step = look.step
        return [*self._steps(look), *self._checkpoints(look)]

    def _steps(self, look: Look) -> list[Act]:
        duration = float(look.rank_step_s.max())
        if not (math.isfinite(duration) and duration > 0):
            return []
        if len(self._usual) < ENOUGH:
            self._usual.add(duration)
            return []
        usual = self._usual.median
        if self._told_at >= 0:
            return self._until_over(look, duration, usual)
        if duration <= TIMES * usual:
            self._streak, self._streak_s = 0, 0.0
            self._usual.add(duration)
            return []
        self._streak, self._streak_s = self._streak + 1, self._streak_s + duration
        if self._streak < STREAK or self._streak_s < STREAK_S:
            return []
        self._told_at, self._back = look.step, 0
        text = f"{self._streak} steps on end took {duration_text(self._streak_s)}, {duration_text(usual)} each is usual"
        slowest = int(np.argmax(look.rank_step_s - look.rank_communication_s)) if look.ranks > 1 else 0
        return [self.act(look, "warn", text, usual_s=usual, step_s=duration, slowest_rank=slowest)]

    def _until_over(self, look: Look, duration: float, usual: float) -> list[Act]:
        self._back = self._back + 1 if duration < OVER_TIMES * usual else 0
        if self._back < OVER_STREAK and look.step - self._told_at < ACCEPTED:
            return []
        self._told_at, self._streak, self._streak_s = -1, 0, 0.0
        if self._back < OVER_STREAK:
            self._usual.clear()
            return []
        return [self.act(look, "warn", "steps take as long as usual again", usual_s=usual, step_s=duration, over=1)]

    def _checkpoints(self, look: Look) -> list[Act]:
        steps = look.gauges.get("checkpoint_step")
        if steps is None or not self._save_interval or not np.isfinite(steps).any():
            return []
        newest = max(float(np.nanmax(steps)), self._first_step - 1)
        late = look.step - 1 - newest >= LATE * self._save_interval + LATE_STEPS
        if late == self._late_told:
            return []
        self._late_told = late
        figures = {"checkpoint_step": newest, "save_interval": self._save_interval}
        if not late:
            return [self.act(look, "warn", "checkpoints come again", over=1, **figures)]
        text = f"no checkpoint since step {newest:.0f}, though one is due every {self._save_interval} steps"
        return [self.act(look, "warn", text, **figures)]
