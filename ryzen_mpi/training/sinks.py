"""Where the records of a run go: opened on rank 0 as the settings ask, each on its own, so that none stops another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ryzen_mpi.config import Settings
from ryzen_mpi.console import Console
from ryzen_mpi.metrics.events import EventLog, event_file
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.prometheus import PrometheusSink
from ryzen_mpi.metrics.sink import Sink, Sinks
from ryzen_mpi.metrics.tensorboard import open_tensorboard
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.training.step import TrainingStep
from ryzen_mpi.training.strategy import EDGES


@dataclass(frozen=True)
class Opened:
    """All of them as one, and what takes [layers, bins] counts of gradients after a step."""

    sink: Sink
    histograms: Callable[[int, np.ndarray], None]


def open_sinks(
    settings: Settings, run: RunDirectory, console: Console, step: TrainingStep, events: EventLog, profile: str
) -> Opened:
    """metrics.h5, the event log and metrics.prom always; Prometheus' port and TensorBoard where asked for. Rank 0.

    Raises UserError where metrics.h5 or TensorBoard's folder can't be opened: a person is still there.
    """
    resumed, layers, monitor = step.progress.step, list(step.layers), settings.monitor
    labels = {"run": run.path.name, "jobid": events.labels.get("jobid", "none")}
    metrics = Hdf5Sink(
        run.metrics,
        step.ranks,
        layers,
        resumed,
        run={"run": run.path.name, "profile": profile},
        events=event_file(run.events, 0),
        report=console.warn,
    )
    prometheus = PrometheusSink(
        run.exposition,
        labels,
        step.hosts,
        port=monitor.prometheus_port,
        address=monitor.prometheus_address,
        targets=Path(monitor.prometheus_targets).expanduser() if monitor.prometheus_targets else None,
        report=console.warn,
        layers=layers,
    )
    if prometheus.address is not None:
        console.line(f"Prometheus finds this run at http://{prometheus.address}/metrics")
    sinks: list[Sink] = [metrics, events, prometheus]
    if not monitor.tensorboard:
        return Opened(Sinks(sinks, report=console.warn), lambda step, counts: None)
    dump = settings.model_dump(mode="json")
    board = open_tensorboard(run.tensorboard, dump, str(step.model), layers, resumed)
    everything = Sinks([*sinks, board], report=console.warn)

    def histograms(number: int, counts: np.ndarray) -> None:
        shapes = {layer: (row, EDGES.numpy()) for layer, row in zip(layers, counts, strict=True)}
        everything.attempt(board, lambda: board.histograms(number, shapes))

    return Opened(everything, histograms)
