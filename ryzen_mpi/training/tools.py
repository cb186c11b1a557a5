"""What goes along with the steps of a run: sinks, recorder, saver, display. The same names on every rank."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ryzen_mpi.cluster.job import leader_decides
from ryzen_mpi.cluster.topology import cpulist_text, read_memory
from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings
from ryzen_mpi.console import Console, TrainingProgress
from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.events import EventLog
from ryzen_mpi.metrics.logs import RankLogs
from ryzen_mpi.metrics.sink import NullSink
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.training.rank_logs import OwnLines
from ryzen_mpi.training.recorder import Recorder
from ryzen_mpi.training.samples import Samples, node_sizes
from ryzen_mpi.training.saver import Saver, ShardSaver
from ryzen_mpi.training.sinks import Opened, open_sinks
from ryzen_mpi.training.standing import Standing
from ryzen_mpi.training.step import TrainingStep
from ryzen_mpi.training.strategy import DTYPES
from ryzen_mpi.training.witness import event_labels


@dataclass(frozen=True)
class Tools:
    """Everything beside the step itself."""

    events: EventLog
    logs: RankLogs
    recorder: Recorder
    saver: Saver | ShardSaver
    progress: TrainingProgress
    console: Console
    lead: Callable[[Callable[[], object]], object]
    """Rank 0 does something with files, and all ranks wait for it outside any collective with a timeout; where it
    cannot, all raise its UserError. Collective."""

    def act(self, act: Mapping[str, Any], done: str) -> None:
        """Writes down an act of the monitor (health.acts.Act.document) and what was done. Local."""
        where = f"rank {act['rank']} on {act['node']}: " if act["rank"] >= 0 else ""
        text = f"step {act['step']}, {act['rule']}: {where}{act['evidence']}" + (f" -> {done}" if done else "")
        self.console.warn(text)
        self.events.event("act", text, "warning", dataset="monitor", done=done, **act)
        self.logs.fault(act["kind"], text, done=done, **act)

    def unknown(self, reasons: Mapping[str, str]) -> None:
        """Writes down which gauges can't be read on this rank's machine, and why. Local."""
        if reasons:
            text = f"what this machine does not tell: {', '.join(sorted(reasons))}"
            self.events.event("gauges", text, dataset="monitor", reasons=dict(reasons))

    def checked(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes down a health check after `step`. Local."""
        self.events.event("health_check", f"health check after step {step}", dataset="monitor", step=step, **figures)
        self.logs.communication(step=step, **figures)

    def save(self, step: TrainingStep) -> None:
        """Has the state of `step` written, unless it is already. Collective. Raises UserError."""
        saver = self.saver
        if self.lead(lambda: saver.wants(step.progress.step)):
            saver.submit(step)
            self.lead(lambda: saver.confirm())

    def leave(self, step: TrainingStep, why: str) -> None:
        """Closes everything without saving the state of `step`, which is to be left. Collective."""
        self.recorder.finish(step.last_times())
        self.lead(lambda: self.saver.close())
        self.events.event("back", why, "warning", step=step.progress.step)
        self.close_records()

    def close_records(self) -> None:
        """Has all that was recorded on disk. Local."""
        self.recorder.sink.close()
        self.events.close()
        self.logs.close()

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
    profile: str,
    watched: Callable[[], Mapping[str, float]] = dict,
) -> Tools:
    """Opens them; on ranks other than 0 those that rank 0 keeps for all do nothing. Raises UserError.

    `watched`: gives what samples tell of the monitor, by signal.
    """
    resumed = step.progress.step
    events = EventLog(run.events, world.rank, event_labels(world, run))
    events.event(
        "start",
        f"rank {world.rank} of {world.size} at step {resumed}",
        step=resumed,
        total_steps=step.total_steps,
        ranks=world.size,
        cpus=cpulist_text(os.sched_getaffinity(0)),  # as the kernel has it: a report sees ranks that share cores
        threads=torch.get_num_threads(),
        node_memory_bytes=read_memory().total_bytes,
    )
    logs = RankLogs(run.logs, world.rank, event_labels(world, run), settings.monitor.log_bytes, console.warn)
    opened = Opened(NullSink(), lambda step, counts: None)
    samples: Samples | None = None
    saver: Saver | ShardSaver = ShardSaver(run, world.rank)
    if world.is_leader:
        run.remove_complete()  # the run goes on
        opened = open_sinks(settings, run, console, step, events, profile)

        def not_saved(error: UserError, step: int) -> None:
            console.warn(f"{error.message}; tried again at the next save")
            events.event("checkpoint_failed", error.message, "warning", step=step)

        shards = world.size - 1 if step.strategy.cut else 0
        saver = Saver(run, settings.training.keep_checkpoints, corpus, resumed, not_saved, shards)
        standing, layout = Standing(run, step, saver), step.strategy.layout
        item = torch.promote_types(DTYPES[settings.hardware.dtype], torch.float32).itemsize
        samples = Samples(
            settings.monitor.sample_s,
            layout.size * item,
            node_sizes(step.hosts),
            step.strategy.cut is not None,
            lambda: standing() | dict(watched()),
        )
    progress = console.progress(step.total_steps, resumed)
    lines = OwnLines(logs, world.rank, settings.monitor.sample_s)
    recorder = Recorder(opened.sink, progress, samples, lines, opened.histograms)
    return Tools(events, logs, recorder, saver, progress, console, partial(leader_decides, world))
