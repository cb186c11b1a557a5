"""Records for the tests of the metrics: every figure is a function of the step, so that rows can be told apart."""

from __future__ import annotations

import math
import os
import sys

from ryzen_mpi.metrics.record import EvaluationRecord, SampleRecord, StepRecord
from ryzen_mpi.metrics.signals import of_kind

LAYERS = ["embedding", "block.0", "head"]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def step_record(step: int, ranks: int = 4, **changes) -> StepRecord:
    """The record of step `step`; every fifth carries gradient variances."""
    values = {
        "step": step,
        "wall_time_s": 1.7e9 + step / 3,
        "loss": 5 / step,
        "accuracy": 1 - 1 / step,
        "learning_rate": 1e-3 / 3,
        "gradient_norm": math.sqrt(step),
        "samples": 64 * step,
        "tokens": 8192,
        "step_s": 0.1 + step / 1e4,
        "communication_s": 0.01,
        "skipped": step % 7 == 0,
        "rank_step_s": tuple(0.1 + rank / 7 for rank in range(ranks)),
        "rank_communication_s": tuple(step + rank / 10 for rank in range(ranks)),
        "rank_rss_bytes": tuple(float(10**9 + rank) for rank in range(ranks)),
        "rank_cpu_share": (math.nan,) + (0.9,) * (ranks - 1),
        "gradient_variance": tuple(step / (layer + 1) for layer in range(len(LAYERS))) if step % 5 == 0 else None,
        "rank_sent_bytes": tuple(float(4096 * step + rank) for rank in range(ranks)),
        "compression_ratio": 1 + step / 8,
        "reduce_s": 0.003 + step / 1e5,
        "rank_gradient_norm": tuple(math.sqrt(step + rank) for rank in range(ranks)),
    }
    return StepRecord(**values | changes)


def evaluation_record(step: int) -> EvaluationRecord:
    return EvaluationRecord(step, 6 / step, 1 / step)


def sample_record(step: int, ranks: int = 4, without: tuple[str, ...] = ()) -> SampleRecord:
    """What a sample after `step` tells: of every signal another figure; of those in `without` nothing."""
    values = {s.name: step + number / 100 for number, s in enumerate(of_kind("sample")) if s.name not in without}
    rank_values = {
        signal.name: tuple(step + number / 100 + rank / 1e4 for rank in range(ranks))
        for number, signal in enumerate(of_kind("rank_sample"))
        if signal.name not in without
    }
    return SampleRecord(step, 1.7e9 + step / 3 + 0.1, values, rank_values)
