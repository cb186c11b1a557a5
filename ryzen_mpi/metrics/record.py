"""What is handed from the training to the sinks: one record a step, one an evaluation. Units are in `signals`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One committed or skipped step, as rank 0 knows it.

    Rank arrays hold one value a rank, in rank order, NaN where a rank cannot tell; `gradient_variance` one value a
    layer, or None at the steps where it is not taken. What older logs do not tell has a default.
    """

    step: int
    wall_time_s: float
    loss: float
    accuracy: float
    learning_rate: float
    gradient_norm: float
    samples: int
    tokens: int
    step_s: float
    communication_s: float
    skipped: bool
    rank_step_s: Sequence[float]
    rank_communication_s: Sequence[float]
    rank_rss_bytes: Sequence[float]
    rank_cpu_share: Sequence[float]
    gradient_variance: Sequence[float] | None = None
    rank_sent_bytes: Sequence[float] = ()
    compression_ratio: float = math.nan

    @property
    def ranks(self) -> int:
        """How many ranks took part."""
        return len(self.rank_step_s)


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One evaluation on held-out data, after step `step`."""

    step: int
    held_out_loss: float
    held_out_accuracy: float


Record = StepRecord | EvaluationRecord
