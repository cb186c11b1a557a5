"""Training that runs away: a lower learning rate, then back to a checkpoint and round that window of data."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from ryzen_mpi.health.acts import Act
from ryzen_mpi.health.rules.rule import Rule
from ryzen_mpi.health.window import Window
from ryzen_mpi.training.look import Look

SEVERAL, WITHIN = 3, 20
"""So many steps that were not finite, or spikes, within so many steps are a divergence."""
BLOCK = 16
"""Steps whose median is one smoothed loss."""
RAISED = 4
"""So many smoothed losses in a row above the best one are a slow divergence, if the last of them is no lower than the
first: a loss that comes down again has met new data."""
MARGIN, LIMIT = 0.1, 8.0
"""How far above: a tenth of the best one, and so many robust standard deviations of a smoothed loss."""
FACTOR, LOWERED_STEPS = 0.5, 500
"""The learning rate is multiplied by this, for so many steps."""
MOST_ROLL_BACKS = 3
"""Of one stretch of steps; after that a person is asked."""
SAME = 100
"""Bad steps so soon after the answer to others belong to these: the roll-back goes before the first of all."""
CALM = 500
"""Steps without anything after which the next divergence is a first one again."""


class Divergence(Rule):
    """Answers several bad steps in a row, or a loss that stays raised, with a lower learning rate, then a roll-back.

    Looks at: what `finite` and `spike` found, and the loss.
    Statistic: 3 bad steps within 20; or, slowly, 4 medians of 16 steps in a row that exceed the best one so far by 10 %
    and by 8 robust standard deviations of such a median (1.2533 s / sqrt(16), the median's deviation for normal noise:
    Kenney & Keeping 1962, section 13.13, s being the robust deviation of the single losses), the last no lower than the
    first: after a change of data the loss is raised and falls, in a divergence it does not.
    Answers: the first time the learning rate is halved for 500 steps; again, back to before the first of these steps,
    and round the data up to the last. After 3 roll-backs only a warning. 500 calm steps make it a first time again.
    False alarms: three times in 20 steps what happens to less than one in a million; the slow one is designed for less
    than one in a million blocks.
    Found: at the third bad step; slowly within 5 blocks of 16 steps.
    """

    name = "divergence"

    def __init__(self, *bad: Callable[[], bool]) -> None:
        """`bad`: whether the newest look was a bad step, by each rule that knows."""
        self._bad = bad
        self._bad_steps: deque[tuple[int, int]] = deque(maxlen=SEVERAL)
        self._first: tuple[int, int] | None = None  # step and position at which the first stretch of it began
        self._acted, self._roll_backs, self._warned = -CALM, 0, False
        self._step, self._position, self._batch = 0, 0, 0
        self._smooth = Smooth()

    def look(self, look: Look) -> list[Act]:
        self._follow(look)
        bad = any(found() for found in self._bad)
        if bad:
            self._bad_steps.append((look.step, look.position))
            if len(self._bad_steps) == SEVERAL and look.step - self._bad_steps[0][0] < WITHIN:
                first = self._bad_steps[0]
                self._bad_steps.clear()
                return self._answer(look, first, f"{SEVERAL} steps within {WITHIN} were spikes or not finite")
        elif said := self._smooth.raised(look):
            return self._answer(look, self._smooth.since, said)
        return []

    def _follow(self, look: Look) -> None:
        """Keeps up with the steps, which may have gone back, and with how many samples one has."""
        if look.step <= self._step:
            self._bad_steps.clear()
            self._smooth = Smooth()
        elif look.step == self._step + 1 and look.position > self._position:
            moved = look.position - self._position
            self._batch = min(self._batch or moved, moved)  # after a roll-back one step jumps over the window
        self._step, self._position = look.step, look.position
        if look.step - self._acted > CALM:
            self._first, self._roll_backs, self._warned = None, 0, False

    def _answer(self, look: Look, first: tuple[int, int], said: str) -> list[Act]:
        """The next answer: the rate, the roll-back, a person."""
        again, acted, self._acted = self._first is not None, self._acted, look.step
        self._smooth = Smooth()
        if not again:
            self._first = first
            figures = {"factor": FACTOR, "steps": LOWERED_STEPS, "first_step": first[0]}
            return [self.act(look, "lower_rate", said, **figures)]
        if self._roll_backs >= MOST_ROLL_BACKS:
            warned, self._warned = self._warned, True
            text = f"{said}, after {self._roll_backs} roll-backs: lower the learning rate or look at the data"
            return [] if warned else [self.act(look, "warn", text, roll_backs=self._roll_backs)]
        self._roll_backs += 1
        begin = min(self._first, first) if first[0] - acted <= SAME else first
        figures = {
            "from_position": begin[1],
            "to_position": look.position + self._batch,
            "before_step": begin[0],
        }
        return [self.act(look, "roll_back", f"{said}, at a lower learning rate too", **figures)]


class Smooth:
    """The loss in blocks, against the best block so far."""

    def __init__(self) -> None:
        self._block: list[float] = []
        self._losses = Window(4 * BLOCK)
        self._best = math.inf
        self._raised: list[float] = []
        self.since = (0, 0)
        """Step and position at which the raised blocks began."""
        self._began = (0, 0)

    def raised(self, look: Look) -> str:
        """What is wrong, at the end of the block that makes it a slow divergence; else nothing. Takes a finite loss."""
        if not math.isfinite(look.loss):
            return ""
        if not self._block:
            self._began = (look.step, look.position)
        self._block.append(look.loss)
        if len(self._block) < BLOCK:
            return ""
        level = sorted(self._block)[BLOCK // 2]
        if level > self._best + self._margin():
            self.since = self.since if self._raised else self._began
            self._raised = [*self._raised, level][-RAISED:]
        else:
            self._raised.clear()
            self._best = min(self._best, level)
            for loss in self._block:
                self._losses.add(loss)
        self._block.clear()
        if len(self._raised) < RAISED or self._raised[-1] < self._raised[0]:
            return ""
        return f"the loss has been {level:.4g} where {self._best:.4g} was reached, for {RAISED * BLOCK} steps"

    def _margin(self) -> float:
        spread = self._losses.deviation if len(self._losses) else math.inf
        return max(MARGIN * abs(self._best), LIMIT * 1.2533 * spread / math.sqrt(BLOCK))
