"""What goes along with the steps of a run: sinks, recorder, saver, display. The same names on every rank."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ryzen_mpi.cluster.job import leader_decides
from ryzen_mpi.cluster.topology import cpulist_text, read_memory
from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings
from ryzen_mpi.console import Console, TrainingProgress
from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.events import EventLog, event_file
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.sink import NullSink, Sink, Sinks
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.training.recorder import Recorder
from ryzen_mpi.training.saver import Saver, ShardSaver
from ryzen_mpi.training.step import TrainingStep
from ryzen_mpi.training.witness import event_labels


@dataclass(frozen=True)
class Tools:
    """Everything beside the step itself."""

    events: EventLog
    recorder: Recorder
    saver: Saver | ShardSaver
    progress: TrainingProgress
    lead: Callable[[Callable[[], object]], object]
    """Rank 0 does something with files, and all ranks wait for it outside any collective with a timeout; where it
    cannot, all raise its UserError. Collective."""

    def save(self, step: TrainingStep) -> None:
        """Has the state of `step` written, unless it is already. Collective. Raises UserError."""
        saver = self.saver
        if self.lead(lambda: saver.wants(step.progress.step)):
            saver.submit(step)
            self.lead(lambda: saver.confirm())

    def close(self, step: TrainingStep) -> None:
        """Returns when the state of `step` is on disk. Collective. Raises UserError."""
        self.save(step)
        self.lead(lambda: self.saver.close())


def open_tools(
    world: World,
    settings: Settings,
    run: RunDirectory,
    console: Console,
    step: TrainingStep,
    corpus: str,
    total_steps: int,
    profile: str,
) -> Tools:
    """Opens them; on ranks other than 0 those that rank 0 keeps for all do nothing. Raises UserError."""
    resumed = step.progress.step
    events = EventLog(run.events, world.rank, event_labels(world, run))
    events.event(
        "start",
        f"rank {world.rank} of {world.size} at step {resumed}",
        step=resumed,
        ranks=world.size,
        cpus=cpulist_text(os.sched_getaffinity(0)),  # as the kernel has it: a report sees ranks that share cores
        threads=torch.get_num_threads(),
        node_memory_bytes=read_memory().total_bytes,
    )
    sink: Sink = NullSink()
    saver: Saver | ShardSaver = ShardSaver(run, world.rank)
    if world.is_leader:
        run.remove_complete()  # the run goes on
        metrics = Hdf5Sink(
            run.metrics,
            step.ranks,
            list(step.layers),
            resumed,
            run={"run": run.path.name, "profile": profile},
            events=event_file(run.events, 0),
            report=console.warn,
        )
        sink = Sinks([metrics, events], report=console.warn)

        def not_saved(error: UserError, step: int) -> None:
            console.warn(f"{error.message}; tried again at the next save")
            events.event("checkpoint_failed", error.message, "warning", step=step)

        shards = world.size - 1 if step.strategy.cut else 0
        saver = Saver(run, settings.training.keep_checkpoints, corpus, resumed, not_saved, shards)
    progress = console.progress(total_steps, resumed)
    return Tools(events, Recorder(sink, progress), saver, progress, partial(leader_decides, world))
