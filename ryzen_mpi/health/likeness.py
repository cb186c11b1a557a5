"""Whether all ranks have the same weights: compared every so many steps and before every checkpoint; who differs, in
what; and the replay that tells a machine that miscalculates from a program that does.

Every rank makes one number of all bits of its weights, at the speed of memory; only where numbers differ, the weights
themselves are looked into. What differs is never saved: training goes back to the newest checkpoint that was made while
weights were alike, and trains the same steps again, bit for bit. Where they differ again at the same step, the program
is at fault, or the data it is given: that must not go on. Where they don't, it was the hardware or a stray write, and
the rank whose element is farther from what the replay finds there is the one it happened on, even among two.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from ryzen_mpi.cluster.world import World
from ryzen_mpi.errors import UserError
from ryzen_mpi.health.acts import NOBODY, Act
from ryzen_mpi.health.monitor import Monitor
from ryzen_mpi.training.alike import weights_number
from ryzen_mpi.training.replicas import Difference, differences, place_of
from ryzen_mpi.training.step import TrainingStep


@dataclass(frozen=True)
class Seen:
    """A difference that was found: of which of the strategy's `weights`, and how ranks differ in it."""

    vector: int
    rows: tuple[Difference, ...]


class Likeness:
    """Compares the weights of all ranks. Made alike on all of them.

    Attributes:
        cost_s: this rank's time in the newest comparison.
    """

    def __init__(self, world: World, step: TrainingStep, monitor: Monitor) -> None:
        self.world, self.step, self.monitor = world, step, monitor
        self.cost_s = 0.0
        self._open: dict[int, Seen] = {}

    def holds(self, saving: bool) -> bool:
        """Whether the weights are alike, as far as it was time to look; else acts are due. Collective.

        Raises UserError, on all ranks, where a replay has ended in the same difference.
        """
        number = self.step.progress.step
        if number not in self._open and not self.monitor.wants_comparison(number, saving):
            return True
        began = time.perf_counter()
        vectors = list(self.step.strategy.weights())
        acts = self.monitor.take_numbers(number, self.world.exchange.allgather(weights_number(vectors)))
        self.cost_s = time.perf_counter() - began
        before = self._open.pop(number, None)
        if before is not None:
            self._settle(number, before, alike=not acts)
        if not acts:
            return True
        found = [(index, differences(self.world, vector.view(-1))) for index, vector in enumerate(vectors)]
        vector, rows = next((index, rows) for index, rows in found if rows)
        self._open[number] = Seen(vector, tuple(rows))
        told = "; ".join(self._told(row, number) for row in rows)
        figures = {"ulp": max(row.ulp for row in rows), "elements": sum(row.elements for row in rows)}
        figures["cost_s"] = self.cost_s
        for act in acts:
            self.monitor.add(replace(act, evidence=f"{act.evidence}: {told}", figures={**act.figures, **figures}))
        return self.monitor.settings.rules.sync != "act"

    def _settle(self, number: int, before: Seen, alike: bool) -> None:
        """What the replay of a step says of the difference that was found at it."""
        if not alike:
            raise UserError(
                f"the ranks' weights differ at step {number}, and again after training it anew from a checkpoint: "
                f"{self._told(before.rows[0], number)}",
                "that is no accident of one machine: look for what ranks do differently (versions, data, settings)",
            )
        row = before.rows[0]
        truth = float(list(self.step.strategy.weights())[before.vector].view(-1)[row.element])
        off = {row.rank: abs(row.value - truth), row.other: abs(row.expected - truth)}
        rank = max(off, key=off.get) if len(set(off.values())) > 1 else NOBODY  # type: ignore[arg-type]
        whose = f"rank {rank} on {self.monitor.host(rank)}" if rank != NOBODY else "one of them, which can't be told"
        evidence = (
            f"trained again, step {number} ends with the same weights everywhere: hardware or a stray write on {whose} "
            f"(it had {row.value if rank == row.rank else row.expected!r}, the replay has {truth!r})"
        )
        figures = {"cause": "hardware", "value": row.value, "other": row.expected, "replayed": truth}
        self.monitor.add(Act("sync", "warn", rank, self.monitor.host(rank), number, evidence, figures))

    def _told(self, row: Difference, number: int) -> str:
        return row.told("weights", number, place_of(self.step.strategy.layout, row.element))
