"""Ranks whose weights differ: back to a checkpoint at which they did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from ryzen_mpi.health.acts import Act
from ryzen_mpi.health.rules.rule import Rule, listed, only
from ryzen_mpi.training.look import Look


class Sync(Rule):
    """Rolls back where ranks hold different weights, and names those that differ from most.

    Looks at: a number of each rank made from all bits of its weights, at the steps they are compared.
    Statistic: none: training data-parallel, weights are equal to the last bit. The ranks outside the largest group of
    equals are named; where two groups are largest (two ranks, one against one) nobody is: replaying the same steps from
    the checkpoint tells (`culprits`).
    False alarms: none by construction. Missed: different weights of the same number, one in 2^64.
    Found: at the first comparison after the fault (monitor.hash_interval steps at most).
    """

    name = "sync"

    def look(self, look: Look) -> list[Act]:
        if look.weights is None or len(set(look.weights)) < 2:
            return []
        ranks = minority(look.weights)
        if len(ranks) == 1:
            who = f"those of rank {ranks[0]} differ from the others'"
        elif ranks:
            who = f"those of ranks {listed(ranks)} differ from most others'"
        else:
            who = "no majority tells whose are wrong; the replay tells"
        figures = {
            "compared": look.compared,
            "ranks": listed(ranks),
            "weights": ", ".join(f"{number:x}" for number in look.weights),
        }
        said = f"the ranks' weights are not the same at step {look.compared}: {who}"
        return [self.act(look, "roll_back", said, only(ranks), **figures)]


def minority(weights: Sequence[int]) -> list[int]:
    """The ranks outside the largest group of equal weights; none where no group is the largest. Pure."""
    groups = Counter(weights).most_common()
    if len(groups) < 2 or groups[0][1] == groups[1][1]:
        return []
    return [rank for rank, number in enumerate(weights) if number != groups[0][0]]


def culprits(first: Sequence[int], replayed: Sequence[int]) -> tuple[list[int], Literal["software", "hardware"]]:
    """Who spoilt the weights, and what: `first` and `replayed` are of the same step, before and after a roll-back.

    Pure. The steps are deterministic. So a mismatch that comes again, number by number, is computed: software (its
    ranks: the minority). Where the replay is clean, or another one, a stray write or the hardware did it: the ranks
    whose number the replay did not repeat. After a replay that is not clean only those can be named that did not.
    """
    assert len(first) == len(replayed)
    if list(first) == list(replayed):
        return minority(first), "software"
    return [rank for rank, number in enumerate(first) if number != replayed[rank]], "hardware"
