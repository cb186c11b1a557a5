"""A rank that computes longer than the others: named, with the likely cause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ryzen_mpi.health.acts import Act
from ryzen_mpi.health.balance import over_others
from ryzen_mpi.health.rules.cause import likely_cause
from ryzen_mpi.health.rules.rule import Rule, node_of
from ryzen_mpi.training.look import Look

SLOWER = 0.15
"""A rank this much above the median of the others is slower than balance allows."""
WINDOW, MOST_OF = 100, 80
"""Named when it was so in this many of the newest steps, ..."""
WINDOW_S = 20.0
"""... and they took so long: a neighbour's burst of work ends sooner."""
FAR, FAR_WINDOW, MOST_FAR, FAR_S = 2.0, 10, 8, 5.0
"""Named sooner where it took more than three times the others' time in 8 of the newest 10 steps, and for so long: what
a scheduler does to a rank among more ranks than cores lasts milliseconds, and steps can be as short."""
RECENT, FEW_OF = 30, 6
"""No longer slow when it was so in at most this many of the newest steps."""
WORSE = 2.0
"""Told again when the time it takes longer has grown so many times, ..."""
AGAIN = 1000
"""... or so many steps after it had recovered."""
FIRST = 5
"""Steps of an attempt that are not looked at: memory is touched, code is compiled, files are cold."""


class Straggler(Rule):
    """Names a rank that computes longer than the others, its node and the likely cause.

    Looks at: the time each rank computed in the step before (its duration less the time blocked in collectives), per
    sample where ranks have unequal shares, against the median of the other ranks' at the same step; the gauges for the
    cause.
    Statistic: a sign test (Conover 1999, Practical Nonparametric Statistics, section 3.4) of "15 % above the others":
    true of 80 of the newest 100 steps, which took 20 s or more. A rank that is as good as the others is above their
    median in half the steps; then 80 of 100 has a probability of 6e-10 if steps were independent; they are not, whence
    the seconds. And sooner: more than three times the others' time in 8 of 10 steps that took 5 s or more.
    False alarms: designed for less than one in a million steps.
    Found: a rank five times slower within 10 steps (or 5 s, where steps are shorter than 0.5 s) of its becoming so; one
    15 % slower or more within 100 steps (or 20 s). Told once, again when it has doubled, and when it is over.
    """

    name = "straggler"

    def __init__(self, samples: Sequence[int] = ()) -> None:
        """`samples`: every rank's in a step, in rank order; empty where they have equal shares."""
        self._samples = np.array(samples, dtype=np.float64)
        self._step = 0
        self._start(0)

    def _start(self, ranks: int) -> None:
        self._ranks, self._looks = ranks, 0
        self._slow = np.zeros((WINDOW, ranks), dtype=bool)
        self._count = np.zeros(ranks, dtype=np.int64)
        self._far_count = np.zeros(ranks, dtype=np.int64)
        self._far = np.zeros((FAR_WINDOW, ranks), dtype=bool)
        self._over = np.zeros((RECENT, ranks))
        self._clock = np.zeros(WINDOW)
        self._far_since: dict[int, float] = {}
        self._told: dict[int, float] = {}
        self._recovered: dict[int, int] = {}

    def look(self, look: Look) -> list[Act]:
        if look.ranks != self._ranks or look.step != self._step + 1:
            self._start(look.ranks)
        self._step = look.step
        if look.ranks < 2:
            return []
        self._looks += 1
        if self._looks <= FIRST:
            return []
        self._learn(look)
        if not self._told and int(self._far_count.max()) < MOST_FAR and int(self._count.max()) < MOST_OF:
            self._far_since = {}
            return []
        return [*self._over_acts(look), *self._slow_acts(look)]

    def _learn(self, look: Look) -> None:
        seen = self._looks - FIRST - 1
        with np.errstate(invalid="ignore"):
            times = look.rank_step_s - look.rank_communication_s
            if len(self._samples) == look.ranks:
                times = times / np.maximum(1.0, self._samples)
        over = over_others(times)
        with np.errstate(invalid="ignore"):
            slow, far = over > SLOWER, over > FAR
        place = seen % WINDOW
        self._count += slow
        self._count -= self._slow[place]
        self._slow[place], self._clock[place] = slow, look.clock_s
        self._far_count += far
        self._far_count -= self._far[seen % FAR_WINDOW]
        self._far[seen % FAR_WINDOW] = far
        self._over[seen % RECENT] = over

    def _since(self, steps: int) -> float:
        """Seconds that the newest `steps` steps took, as far as they are known."""
        newest = self._looks - FIRST - 1
        oldest = max(0, newest - min(steps, WINDOW - 1))
        return float(self._clock[newest % WINDOW] - self._clock[oldest % WINDOW])

    def _slow_acts(self, look: Look) -> list[Act]:
        acts, far = [], self._far_for_long(look)
        for rank in np.flatnonzero((self._far_count >= MOST_FAR) | (self._count >= MOST_OF)).tolist():
            soon = rank in far
            if not soon and not (self._count[rank] >= MOST_OF and self._since(WINDOW) >= WINDOW_S):
                continue
            more = self._more(rank, FAR_WINDOW if soon else RECENT)
            told = self._told.get(rank)
            if told is not None and more < WORSE * told:
                continue
            if told is None and look.step - self._recovered.get(rank, -AGAIN) < AGAIN:
                continue
            self._told[rank] = more
            acts.append(self._named(look, rank, more))
        return acts

    def _far_for_long(self, look: Look) -> set[int]:
        """The ranks that have mostly been far behind for long enough."""
        far = np.flatnonzero(self._far_count >= MOST_FAR).tolist()
        began = look.clock_s - self._since(FAR_WINDOW)
        self._far_since = {rank: self._far_since.get(rank, began) for rank in far}
        return {rank for rank, since in self._far_since.items() if look.clock_s - since >= FAR_S}

    def _over_acts(self, look: Look) -> list[Act]:
        acts = []
        for rank in list(self._told):
            newest = self._looks - FIRST - 1
            slow = sum(int(self._slow[(newest - back) % WINDOW, rank]) for back in range(RECENT))
            if slow <= FEW_OF:
                del self._told[rank]
                self._recovered[rank] = look.step
                said = f"rank {rank} computes as long as the others again"
                acts.append(self.act(look, "warn", said, rank, over=1))
        return acts

    def _more(self, rank: int, steps: int) -> float:
        """The median of what the rank took longer in its newest steps."""
        newest = self._looks - FIRST - 1
        values = [float(self._over[(newest - back) % RECENT, rank]) for back in range(min(steps, RECENT, newest + 1))]
        return float(np.nanmedian(values))

    def _named(self, look: Look, rank: int, more: float) -> Act:
        cause, gauges = likely_cause(look, rank)
        where = f" on {host}" if (host := node_of(look, rank)) else ""
        how = f"{100 * more:.0f} % longer than" if more < 1 else f"{1 + more:.1f} times as long as"
        said = f"rank {rank}{where} computes {how} the others; likely cause: {cause}"
        return self.act(look, "warn", said, rank, more=more, cause=cause.partition(":")[0], **gauges)
