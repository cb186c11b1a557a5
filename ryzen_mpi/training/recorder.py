"""From the outcome of a step to its record: sinks, console, and the figures of the summary."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from ryzen_mpi.console import TrainingProgress
from ryzen_mpi.figures import Figure, median
from ryzen_mpi.metrics.record import EvaluationRecord, StepRecord
from ryzen_mpi.metrics.sink import Sink
from ryzen_mpi.training.agreement import Table
from ryzen_mpi.training.evaluate import HeldOut
from ryzen_mpi.training.rank_logs import OwnLines
from ryzen_mpi.training.samples import Samples
from ryzen_mpi.training.step import StepOutcome

WARMUP_STEPS = 5
"""Steps at the start of an attempt that no rate is taken from (page faults, caches, kernels chosen)."""


class Recorder:
    """Turns outcomes into records. Rank 0 keeps it; a step's record follows one step later, when all times are known.

    Args:
        sink: where records go.
        progress: the console's display.
        samples: what is recorded every few seconds, or None.
        lines: what this rank writes down of itself, or None.
        histograms: takes [layers, bins] counts of gradients after a step.
    """

    def __init__(
        self,
        sink: Sink,
        progress: TrainingProgress,
        samples: Samples | None = None,
        lines: OwnLines | None = None,
        histograms: Callable[[int, np.ndarray], None] = lambda step, counts: None,
    ) -> None:
        self.sink, self.progress, self.samples, self.lines = sink, progress, samples, lines
        self.histograms = histograms
        self._pending: tuple[StepOutcome, float] | None = None
        self._step_s: list[float] = []
        self._communication_s: list[float] = []
        self._samples: list[int] = []
        self.last_loss = math.nan
        self.note = ""

    def step(self, outcome: StepOutcome, batch: int) -> None:
        """Takes the outcome of a step of `batch` samples and writes the record of the one before. Local."""
        if self._pending is not None:
            self._write(outcome.table)
        self._pending = outcome, time.time()
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
        outcome, wall_time_s = self._pending
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
                gradient_variance=outcome.gradient_variance,
                rank_sent_bytes=outcome.table.sent_bytes,
                compression_ratio=outcome.compression_ratio,
                reduce_s=float(times.reduce_s.max()),
                rank_gradient_norm=np.sqrt(outcome.table.own_square),
            )
        )
        if outcome.gradient_counts is not None:
            self.histograms(outcome.step, outcome.gradient_counts)
        if self.lines is not None:
            self.lines.step(outcome, times)
        sample = self.samples and self.samples.add(outcome.step, outcome.table, times)
        if sample:
            self.sink.write(sample)
