"""The monitor: every rule looks at every step; what follows is the same on all ranks, and carried out between steps.

Ranks agree by construction: rules conclude from looks alone, and a look is made of the one table that all ranks have
gathered. What can't be known from a step (whether weights are alike, how the network does) is gathered before it is
judged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.health.acts import NOBODY, Act
from ryzen_mpi.health.rules import Given, Rule, make_rules
from ryzen_mpi.training.look import Look

MOST_BACK = 3
"""Times that one attempt goes back to a checkpoint: a training that needs it more often needs a person."""


@dataclass(frozen=True)
class Back:
    """Where training goes back to, and why.

    Attributes:
        act: what asked for it.
        before: only checkpoints of this step or an earlier one will do.
        detour: begin and end of what is left out of the sample stream from then on, or None.
    """

    act: Act
    before: int
    detour: tuple[int, int] | None = None


class Monitor:
    """Judges every step (training.look.Judge) and keeps what has to be done about it until the step is over.

    All ranks make it alike; every method is local and gives the same on all of them.

    Args:
        given: what rules are told of the run.
        hosts: name of each rank's node.
        resumed: step the attempt begins at, whose weights are alike: they come from one checkpoint or one rank.
    """

    def __init__(self, settings: Settings, given: Given, hosts: Sequence[str], resumed: int) -> None:
        self.settings, self.given, self.hosts = settings.monitor, given, hosts
        self.acts_taken = self.times_back = 0
        self.compared = self.alike = 0
        self.trained_s = 0.0
        self._due: deque[Act] = deque()
        self.begin(resumed)

    def begin(self, step: int) -> None:
        """Training goes on from `step`, at the start or after going back."""
        self.rules: list[Rule] = make_rules(self.settings, self.given)
        self.alike_at = step
        self._slow: set[int] = set()
        self._look: Look | None = None

    # -- before an update ---------------------------------------------------------------------------------------------

    def judge(self, look: Look) -> bool:
        """Whether the update of this step is left out. What is not finite is, whatever the rules may do."""
        self._look = look
        step_s = look.rank_step_s.max()
        self.trained_s += float(step_s) if step_s == step_s else 0.0
        acts = [act for rule in self.rules for act in rule.look(look)]
        self.add(*acts)
        broken = not look.finite.all()
        return broken or any(act.kind == "skip" for act in self._due)

    def add(self, *acts: Act) -> None:
        """Has `acts` carried out when the step is over, as far as the settings let them."""
        for act in acts:
            if getattr(self.settings.rules, act.rule, "act") == "warn" and act.kind != "warn":
                act = replace(act, kind="warn", figures={**act.figures, "would": act.kind})
            self._due.append(act)

    # -- between steps ------------------------------------------------------------------------------------------------

    def take(self) -> list[Act]:
        """What is to be carried out now, oldest first; nothing is given twice."""
        acts, self._due = list(self._due), deque()
        for act in acts:
            self.acts_taken += act.kind != "warn"
            if act.rule == "straggler":
                (self._slow.discard if act.figures.get("over") else self._slow.add)(act.rank)
            for rule in self.rules:
                rule.took(act)
        return acts

    def back(self, act: Act) -> Back:
        """Where an act of kind roll_back leads. Raises UserError where that has been tried often enough."""
        self.times_back += 1
        if self.times_back > MOST_BACK:
            raise UserError(
                f"step {act.step}: {act.evidence}; this attempt has gone back {MOST_BACK} times already",
                "look at the data, the learning rate and the machine; then start again with the same --run-dir",
            )
        if act.rule == "sync":
            return Back(act, self.alike_at)
        begin, end = int(act.figures["from_position"]), int(act.figures["to_position"])
        return Back(act, int(act.figures["before_step"]), (begin, end) if end > begin else None)

    def figures(self) -> dict[str, float]:
        """What is recorded of the monitor itself, by signal."""
        figures = {"acts": self.acts_taken, "stragglers": len(self._slow), "sync_checks": self.compared}
        if self.compared:
            figures["sync_accuracy"] = self.alike / self.compared
        return figures

    # -- weights ------------------------------------------------------------------------------------------------------

    def wants_comparison(self, step: int, saving: bool) -> bool:
        """Whether the ranks' weights are to be compared after `step`; `saving`: a checkpoint is about to be made."""
        every = self.settings.hash_interval
        ranks = len(self.hosts)
        return bool(ranks > 1 and every and self.settings.rules.sync != "off" and (saving or step % every == 0))

    def take_numbers(self, step: int, numbers: Sequence[int]) -> list[Act]:
        """Takes a number of every rank's weights after `step`; what follows where they are not all the same."""
        self.compared += 1
        if len(set(numbers)) == 1:
            self.alike += 1
            self.alike_at = step
            return []
        assert self._look is not None, "weights are compared after a step"
        look = replace(self._look, weights=tuple(numbers), compared=step)
        return [act for rule in self.rules if rule.name == "sync" for act in rule.look(look)]

    def host(self, rank: int) -> str:
        """The node of a rank; empty for nobody's."""
        return self.hosts[rank] if rank != NOBODY and rank < len(self.hosts) else ""
