"""What goes along with the steps of a run: sinks, recorder, saver, display. The same names on every rank."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings
from ryzen_mpi.console import Console, TrainingProgress
from ryzen_mpi.metrics.events import EventLog, event_file
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.sink import NullSink, Sink, Sinks
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.training.recorder import Recorder, layer_slices
from ryzen_mpi.training.saver import NoSaver, Saver
from ryzen_mpi.training.step import TrainingStep


@dataclass(frozen=True)
class Tools:
    """Everything beside the step itself."""

    events: EventLog
    recorder: Recorder
    saver: Saver | NoSaver
    progress: TrainingProgress
    meet: Callable[[], object]
    """All ranks wait for rank 0, which had files to open or a copy to take, outside any collective with a timeout."""


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
    labels = {"run": run.path.name, "node": world.hostname, "jobid": os.environ.get("SLURM_JOB_ID", "none")}
    events = EventLog(run.events, world.rank, labels)
    events.event("start", f"rank {world.rank} of {world.size} at step {resumed}", step=resumed, ranks=world.size)
    sink: Sink = NullSink()
    saver: Saver | NoSaver = NoSaver()
    if world.is_leader:
        run.complete.unlink(missing_ok=True)  # the run goes on: it is not complete
        metrics = Hdf5Sink(
            run.metrics,
            world.size,
            list(layer_slices(step.flat)),
            resumed,
            run={"run": run.path.name, "profile": profile},
            events=event_file(run.events, 0),
            report=console.warn,
        )
        sink = Sinks([metrics, events], report=console.warn)
        saver = Saver(run, settings.training.keep_checkpoints, corpus, resumed)
    progress = console.progress(total_steps, resumed)
    training = settings.training
    recorder = Recorder(
        sink, progress, step.flat, training.log_interval if world.is_leader else 2**62, training.clip_norm
    )
    return Tools(events, recorder, saver, progress, lambda: world.exchange.allgather(None))
