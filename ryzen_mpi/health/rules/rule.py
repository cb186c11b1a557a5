"""What all rules have in common."""

from __future__ import annotations

from collections.abc import Iterable

from ryzen_mpi.health.acts import NOBODY, Act
from ryzen_mpi.training.look import Look


class Rule:
    """Looks at every step of an attempt, before its update, and answers with acts.

    It concludes from the looks alone: no clock, no randomness, no files. So every rank comes to the same acts. A look
    may hold any number, NaN and infinities included. Steps may go back (a roll-back).
    """

    name = ""

    def look(self, look: Look) -> list[Act]:
        """What follows from this step; nearly always nothing. Local, microseconds."""
        raise NotImplementedError

    def took(self, act: Act) -> None:  # noqa: B027 - most rules need not know
        """Told of every act, of any rule, that was carried out."""

    def act(self, look: Look, kind: str, evidence: str, rank: int = NOBODY, node: str = "", **figures) -> Act:
        """An act of this rule at this step; the node of a rank is filled in."""
        return Act(self.name, kind, rank, node or node_of(look, rank), look.step, evidence, figures)


def node_of(look: Look, rank: int) -> str:
    """The name of a rank's node; empty where it is not known."""
    return look.hosts[rank] if 0 <= rank < len(look.hosts) else ""


def only(ranks: list[int]) -> int:
    """The rank where there is exactly one, else NOBODY."""
    return ranks[0] if len(ranks) == 1 else NOBODY


def listed(ranks: Iterable[int]) -> str:
    """Ranks as words: "1, 3"."""
    return ", ".join(str(rank) for rank in ranks)
