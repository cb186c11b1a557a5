"""Going back to an earlier state of the same training, within the processes that train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from ryzen_mpi.cluster.job import leader_decides
from ryzen_mpi.cluster.world import World
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.training.checkpoint_reading import (
    Checkpoint,
    DamagedCheckpoint,
    find_checkpoints,
    load_checkpoint,
    step_of,
)
from ryzen_mpi.training.first import first_values
from ryzen_mpi.training.reduce import BROADCAST_BYTES
from ryzen_mpi.training.state import restore
from ryzen_mpi.training.step import Progress, TrainingStep
from ryzen_mpi.training.strategy import VECTORS, Stretch


def go_back(world: World, run: RunDirectory, step: TrainingStep, before: int, detour: tuple[int, int] | None) -> int:
    """Puts `step` where it was after the newest good checkpoint of step `before` or an earlier one; returns that step.

    Where there is none, where it began: with its first weights. A lowered learning rate stays lowered. Collective.
    `detour`: begin and end of what is left out of the sample stream from then on.
    """
    found: Checkpoint | None = None

    def find() -> None:
        nonlocal found
        found = newest_until(run, before)

    leader_decides(world, find)
    lowered = step.progress
    if world.exchange.broadcast(found is not None):
        restore(world, step, found)
    else:
        begin_anew(step)
    step.progress = replace(step.progress, rate_factor=lowered.rate_factor, lowered_until=lowered.lowered_until)
    if detour is not None:
        step.detours.add(*detour)
    return step.progress.step


def newest_until(run: RunDirectory, step: int) -> Checkpoint | None:
    """The newest checkpoint of `step` or an earlier one that verifies, or None. Local."""
    for path in find_checkpoints(run.checkpoints):
        if step_of(path) <= step:
            with contextlib.suppress(DamagedCheckpoint):
                return load_checkpoint(path)
    return None


def begin_anew(step: TrainingStep) -> None:
    """Gives `step` the weights and moments it was made with. Collective."""
    step.strategy.load(_first(step))
    step.strategy.updates, step.progress = 0, Progress()
    step.strategy.settle()


def _first(step: TrainingStep) -> Iterator[Stretch]:
    layout = step.strategy.layout
    places = {place.name: place for place in layout.places}
    length = BROADCAST_BYTES // 8
    for begin in range(0, layout.size, length):
        for vector in VECTORS:
            yield vector, begin, torch.zeros(min(length, layout.size - begin))
    for name, begin, values in first_values(step.model, step.settings.training.seed, step.group):
        if name in places:  # what is frozen has not changed
            yield "model", places[name].offset + begin, values
