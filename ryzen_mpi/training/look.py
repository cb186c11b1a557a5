"""What all ranks know at a step before its update, and who looks at it: the protocol, and the one that never acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Look:
    """A step as every rank sees it, from the one table they have gathered: the same on all of them, bit for bit.

    Whoever draws conclusions from nothing else draws the same ones on every rank. Rank arrays have shape (ranks,), NaN
    where a rank cannot tell.

    Attributes:
        step: 1-based number of the step; its update is still to come.
        position: of its first sample in the sample stream.
        clock_s: rank 0's monotonic clock; comparable within an attempt.
        loss, gradient_norm: of the global batch, before clipping.
        learning_rate: the step's.
        finite: rank array, 1 where the rank's own loss and gradient are finite.
        rank_loss: rank array, each rank's mean loss over its own samples.
        rank_gradient_norm: rank array, of each rank's own gradient before reduction, an estimate.
        rank_step_s, rank_communication_s: rank arrays, of the step before.
        gauges: rank arrays by name (cluster.gauges), of the newest look at each rank's machine; and `checkpoint_step`,
            of the newest checkpoint that the rank knows of, -1 for none.
        hosts: name of each rank's node.
        weights: of each rank, a number made from all bits of its weights; None where they were not compared.
        compared: the step whose weights `weights` are of.
    """

    step: int
    position: int
    clock_s: float
    loss: float
    gradient_norm: float
    learning_rate: float
    finite: np.ndarray
    rank_loss: np.ndarray
    rank_gradient_norm: np.ndarray
    rank_step_s: np.ndarray
    rank_communication_s: np.ndarray
    gauges: Mapping[str, np.ndarray] = field(default_factory=dict)
    hosts: Sequence[str] = ()
    weights: Sequence[int] | None = None
    compared: int = -1

    @property
    def ranks(self) -> int:
        return len(self.finite)


class Judge(Protocol):
    """Looks at every step. All ranks construct it alike; it concludes from what it is given alone."""

    def judge(self, look: Look) -> bool:
        """Whether the update of this step must be left out. Local, and the same on all ranks."""


class Calm:
    """Skips what is not finite and nothing else: what tests and benchmarks have that watch nothing."""

    def judge(self, look: Look) -> bool:
        """Whether some rank's loss or gradient is not finite."""
        return not look.finite.all()
