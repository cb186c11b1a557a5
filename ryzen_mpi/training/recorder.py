"""From the outcome of a step to its record: sinks, console, and the figures of the summary."""

from __future__ import annotations

import math
import time

import torch

from ryzen_mpi.console import TrainingProgress
from ryzen_mpi.figures import Figure, median
from ryzen_mpi.metrics.record import EvaluationRecord, StepRecord
from ryzen_mpi.metrics.sink import Sink
from ryzen_mpi.training.agreement import Table
from ryzen_mpi.training.evaluate import HeldOut
from ryzen_mpi.training.flat import FlatParameters
from ryzen_mpi.training.step import StepOutcome

WARMUP_STEPS = 5
"""Steps at the start of an attempt that no rate is taken from (page faults, caches, kernels chosen)."""


class Recorder:
    """Turns outcomes into records. Rank 0 keeps it; a step's record follows one step later, when all times are known.

    Args:
        sink: where records go.
        progress: the console's display.
        flat: gradients, for the variance a layer; looked at every `log_interval` steps.
        clip_norm: as the step clips, to undo it in the variance.
    """

    def __init__(
        self, sink: Sink, progress: TrainingProgress, flat: FlatParameters, log_interval: int, clip_norm: float
    ) -> None:
        self.sink, self.progress, self.flat = sink, progress, flat
        self.log_interval, self.clip_norm = log_interval, clip_norm
        self.layers = layer_slices(flat)
        self._pending: tuple[StepOutcome, float, list[float] | None] | None = None
        self._step_s: list[float] = []
        self._communication_s: list[float] = []
        self._samples: list[int] = []
        self.last_loss = math.nan
        self.note = ""

    def step(self, outcome: StepOutcome, batch: int) -> None:
        """Takes the outcome of a step of `batch` samples and writes the record of the one before. Local."""
        if self._pending is not None:
            self._write(outcome.table)
        variance = self._variance(outcome) if outcome.step % self.log_interval == 0 else None
        self._pending = outcome, time.time(), variance
        self._samples.append(batch)
        self.last_loss = outcome.loss
        self.progress.update(outcome.step, outcome.loss, batch / outcome.step_s, self.note)

    def evaluation(self, step: int, held_out: HeldOut) -> None:
        """Takes an evaluation made after `step`."""
        self.sink.write(EvaluationRecord(step, held_out.loss, held_out.accuracy))
        self.note = f"  held-out {held_out.loss:.4f}"

    def finish(self, table: Table) -> None:
        """Writes the last record with the times in `table`."""
        if self._pending is not None:
            self._write(table)
            self._pending = None
        self.sink.flush()

    def samples_per_s(self) -> Figure:
        """Median over the steps after warm-up, slowest rank, with its interval."""
        rates = [n / s for n, s in zip(self._samples[: len(self._step_s)], self._step_s, strict=True)]
        return median(rates[WARMUP_STEPS:] or rates)

    def communication_share(self) -> float:
        """Share of the time of all steps after warm-up that the ranks, on average, were blocked in collectives."""
        after = slice(WARMUP_STEPS if len(self._step_s) > WARMUP_STEPS else 0, None)
        total = sum(self._step_s[after])
        return sum(self._communication_s[after]) / total if total else math.nan

    def _write(self, times: Table) -> None:
        outcome, wall_time_s, variance = self._pending
        step_s, communication_s = float(times.step_s.max()), float(times.communication_s.mean())
        self._step_s.append(step_s)
        self._communication_s.append(communication_s)
        self.sink.write(
            StepRecord(
                step=outcome.step,
                wall_time_s=wall_time_s,
                loss=outcome.loss,
                accuracy=outcome.accuracy,
                learning_rate=outcome.learning_rate,
                gradient_norm=outcome.gradient_norm,
                samples=outcome.samples,
                tokens=outcome.tokens,
                step_s=step_s,
                communication_s=communication_s,
                skipped=outcome.skipped,
                rank_step_s=times.step_s,
                rank_communication_s=times.communication_s,
                rank_rss_bytes=outcome.table.rss_bytes,
                rank_cpu_share=outcome.table.cpu_share,
                gradient_variance=variance,
            )
        )

    def _variance(self, outcome: StepOutcome) -> list[float]:
        """Variance of each layer's gradient elements before clipping."""
        norm, clip = outcome.gradient_norm, self.clip_norm
        undo = (norm / clip) ** 2 if clip and norm > clip and not outcome.skipped else 1.0
        found = []
        for parts in self.layers.values():
            size = sum(part.numel() for part in parts)
            mean = sum(float(part.sum()) for part in parts) / size
            # a norm reads the gradient once and allocates nothing; squaring it first would take a step's 5 %
            square = sum(float(torch.linalg.vector_norm(part)) ** 2 for part in parts) / size
            found.append((square - mean**2) * undo)
        return found


def layer_slices(flat: FlatParameters) -> dict[str, list]:
    """Parts of the flat gradient by layer: `token`, `position`, `blocks.0`, …, in the model's order."""
    layers: dict[str, list] = {}
    for name in flat.parameters:
        parts = name.split(".")
        layers[".".join(parts[:2]) if parts[0] == "blocks" else parts[0]] = []
    for place in flat.places:
        parts = place.name.split(".")
        key = ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]
        layers[key].append(flat.gradient[place.offset : place.end])
    return layers
