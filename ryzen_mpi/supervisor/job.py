"""What is supervised: it stays the same from attempt to attempt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.supervisor.files import Files
from ryzen_mpi.supervisor.launcher import Command
from ryzen_mpi.supervisor.nodes import Nodes
from ryzen_mpi.supervisor.policy import Situation
from ryzen_mpi.supervisor.state import State
from ryzen_mpi.supervisor.watch import Limits

STRIKE_S = 6 * 3600.0
"""Seconds a fault counts against its node: three in a week are no reason to do without it."""


@dataclass(frozen=True)
class Job:
    """Attributes:
    run: its directory.
    command: as the person gave it.
    nodes: what it may run on.
    per_node: most ranks a node takes; None: as many as are wanted.
    least: fewest ranks worth starting.
    retries: most attempts in a row without a new checkpoint.
    limits: when something counts as broken.
    interfaces: networks to try, in this order; empty: the package's own choice.
    """

    run: RunDirectory
    command: Command
    nodes: Nodes
    per_node: int | None
    least: int
    retries: int
    limits: Limits
    interfaces: tuple[str, ...] = ()

    @property
    def files(self) -> Files:
        """The supervisor's part of the run directory."""
        return Files(self.run)

    def situation(self, state: State, answering: Sequence[str], last: str) -> Situation:
        """What the policy decides from."""
        per_node = self.per_node or max(state.wanted, 1)
        recent = time.time() - STRIKE_S
        strikes = {node: sum(at > recent for at in times) for node, times in state.strikes.items()}
        return Situation(state.wanted, per_node, self.least, answering, strikes, state.fruitless, last, self.retries)
