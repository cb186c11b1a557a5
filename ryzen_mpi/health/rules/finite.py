"""A loss or gradient that is no number: the step is skipped."""

from __future__ import annotations

import math

import numpy as np

from ryzen_mpi.health.acts import Act
from ryzen_mpi.health.rules.rule import Rule, listed, only
from ryzen_mpi.training.look import Look


class Finite(Rule):
    """Skips every step with a loss or gradient that is not finite, and names the rank it came from.

    Looks at: every rank's word whether its loss and gradient are finite, the global loss and gradient norm. A reduced
    gradient spoils everybody's, so whose it was is told by what is each rank's own: its loss, and else the norm of its
    gradient before reduction, an estimate from a sample of its parts, which a single bad value may escape. Where that
    points at several ranks, or at none or all, the act is nobody's and says so.
    Statistic: none. False alarms: none by construction. Found: at the step itself, before its update.
    """

    name = "finite"

    def __init__(self) -> None:
        self._found = False

    def newest_was_bad(self) -> bool:
        """Whether the newest look was such a step."""
        return self._found

    def look(self, look: Look) -> list[Act]:
        good = bool(look.finite.all()) and math.isfinite(look.loss) and math.isfinite(look.gradient_norm)
        self._found = not good
        return [] if good else [self._skip(look)]

    def _skip(self, look: Look) -> Act:
        what = "loss" if not math.isfinite(look.loss) else "gradient"
        ranks = whose(look)
        if not ranks:
            said = f"the {what} is not finite; no rank's own part tells whose it was"
        elif len(ranks) == 1:
            said = f"the {what} is not finite; it came from rank {ranks[0]}"
        else:
            said = f"the {what} is not finite; it came from ranks {listed(ranks)}"
        figures = {"loss": look.loss, "gradient_norm": look.gradient_norm, "ranks": listed(ranks)}
        return self.act(look, "skip", said, only(ranks), **figures)


def whose(look: Look) -> list[int]:
    """The ranks whose own part is not finite; none where that tells nobody from the others."""
    if look.ranks == 1:
        return [0]
    for own in (look.rank_loss, look.rank_gradient_norm, look.finite > 0.5):
        bad = ~np.isfinite(own) if own.dtype != bool else ~own
        if bad.any() and not bad.all():
            return np.flatnonzero(bad).tolist()
    return []
