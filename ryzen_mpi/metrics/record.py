"""What is handed from the training to the sinks: one record a step, an evaluation, a sample. Units are in `signals`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    reduce_s: float = math.nan
    rank_gradient_norm: Sequence[float] = ()

    @property
    def ranks(self) -> int:
        """How many ranks took part."""
        return len(self.rank_step_s)

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is too large."""
        return math.exp(self.loss) if self.loss < 700 else self.loss * math.inf


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One evaluation on held-out data, after step `step`."""

    step: int
    held_out_loss: float
    held_out_accuracy: float


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """What is looked at every few seconds, after step `step`: one value a name, and one a rank.

    Attributes:
        step: the newest step it tells of.
        wall_time_s: seconds since 1970-01-01 UTC.
        values: of the signals of kind "sample", by name; one that is not known is left out.
        rank_values: of the signals of kind "rank_sample", by name: one value a rank, NaN where that cannot tell.
    """

    step: int
    wall_time_s: float
    values: Mapping[str, float]
    rank_values: Mapping[str, Sequence[float]]

    def value(self, name: str) -> float | Sequence[float]:
        """Of a signal, by its name; NaN, or nothing, where it is not known."""
        return self.rank_values.get(name, ()) if name.startswith("rank_") else self.values.get(name, math.nan)


Record = StepRecord | EvaluationRecord | SampleRecord
