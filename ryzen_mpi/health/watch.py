"""Everything that watches a training and acts on it, as one: what the main job calls after every step."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace

import torch

from ryzen_mpi.beacon import Beacon
from ryzen_mpi.cluster.gauges import Gauges
from ryzen_mpi.cluster.world import World
from ryzen_mpi.data.sampler import rank_slice
from ryzen_mpi.health.acts import NOBODY, Act
from ryzen_mpi.health.checks import HealthChecks
from ryzen_mpi.health.hands import Hands
from ryzen_mpi.health.likeness import Likeness
from ryzen_mpi.health.monitor import Back, Monitor
from ryzen_mpi.health.rules import Given
from ryzen_mpi.training.step import TrainingStep
from ryzen_mpi.training.tools import Tools


class Watch:
    """Made alike on all ranks, for the steps of `step`, whose judge it becomes.

    Args:
        threads: every rank's, in rank order.

    Attributes:
        monitor, checks, hands: what concludes, what checks, what carries out.
    """

    def __init__(
        self, world: World, step: TrainingStep, hosts: Sequence[str], threads: Sequence[int], gauges: Gauges
    ) -> None:
        settings = step.settings
        shares = [rank_slice(step.global_batch, rank, step.ranks) for rank in range(step.ranks)]
        samples = [share.stop - share.start for share in shares]
        given = Given(step.micro_batch, threads, samples, settings.training.save_interval)
        self.monitor = Monitor(settings, given, hosts, step.progress.step)
        self.likeness = Likeness(world, step, self.monitor)
        self.checks = HealthChecks(world, settings.monitor.check_share)
        self.hands = Hands(step, world.hostname)
        self.rank, self.gauges = world.rank, gauges
        self._untold = True
        step.judge, step.hosts = self.monitor, hosts

    @property
    def stop(self) -> int:
        """The signal that training is to be ended as if by, or 0."""
        return signal.SIGUSR1 if self.hands.stop else 0

    def after(self, tools: Tools, saving: bool) -> Back | None:
        """Carries out what follows from the step just trained; where to go back to, if that is what follows.

        Collective. `saving`: a checkpoint is about to be made of its weights. Raises UserError on all ranks.
        """
        if self._untold and self.gauges.taken:
            self._untold = False
            tools.unknown(self.gauges.reasons)
        self.likeness.holds(saving)
        if self.checks.due(self.monitor.trained_s):
            self._check(tools)
        back = None
        for act in self.monitor.take():
            done = self.hands.carry_out(act)
            if act.kind == "roll_back":
                back = self.monitor.back(act)
            self._tell(act, done, tools)
        return back

    def begin(self, step: int) -> None:
        """Training goes on from `step`, after going back."""
        self.hands.begin()
        self.monitor.given = replace(self.monitor.given, micro_batch=self.likeness.step.micro_batch)
        self.monitor.begin(step)

    def figures(self) -> dict[str, float]:
        """What samples tell of it, by signal. Local."""
        newest = self.checks.newest
        return self.monitor.figures() | (newest.figures() if newest else {})

    def _check(self, tools: Tools) -> None:
        step, checked = self.likeness.step.progress.step, self.checks.run()
        if not checked.ring:
            evidence = "a message that went round all ranks came back changed, or not where it should"
            self.monitor.add(Act("network", "warn", NOBODY, "", step, evidence, checked.figures()))
        tools.checked(step, checked.figures() | {"cost_s": checked.cost_s})

    def _tell(self, act: Act, done: str, tools: Tools) -> None:
        concerned = act.rank in (NOBODY, self.rank) or self.rank == 0
        if concerned:
            tools.act(act.document(), done)


def watch_over(world: World, step: TrainingStep, gauges: Gauges, beacon: Beacon) -> Watch:
    """Has `step` watched: its judge, and what it tells of this rank's machine and signs of life. Collective."""
    told = world.exchange.allgather([world.hostname, torch.get_num_threads()])
    hosts, threads = zip(*told, strict=True)
    if step.ranks != world.size:  # virtual ranks, all in this process
        hosts, threads = hosts * step.ranks, threads * step.ranks

    def beats() -> tuple[float, float, float]:
        said = beacon.reading()
        return said.beats, gauges.taken, said.saved

    step.gauges, step.beats = gauges.newest, beats
    gauges.start()
    return Watch(world, step, hosts, threads, gauges)
