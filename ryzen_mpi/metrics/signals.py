"""The table of everything that is measured while training: name, unit, meaning. Every sink and reader follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["step", "rank", "layer", "evaluation"]


@dataclass(frozen=True)
class Signal:
    """One measured quantity.

    Attributes:
        name: the field of the record, and the last part of the dataset's path.
        unit: SI or the field's own; "1" for a plain number or a share.
        description: what it is, in words that stand alone (HDF5 attribute, Prometheus help, axis of a plot).
        kind: "step": one value a step; "rank": one a step and rank; "layer": one a layer, at some steps;
            "evaluation": one a held-out evaluation.
        group: the HDF5 group.
        dtype: the NumPy type it is stored in.
    """

    name: str
    unit: str
    description: str
    kind: Kind
    group: str
    dtype: str = "float64"


_ALL = (
    Signal("step", "1", "optimiser steps taken in the run, this one included", "step", "training", "int64"),
    Signal("wall_time_s", "s", "end of the step, in seconds since 1970-01-01 UTC", "step", "training"),
    Signal("loss", "nat/token", "cross-entropy of the next token, mean over the global batch", "step", "training"),
    Signal("accuracy", "1", "share of next tokens whose most likely prediction was right", "step", "training"),
    Signal("learning_rate", "1", "learning rate of the step", "step", "training"),
    Signal("gradient_norm", "1", "L2 norm of the global gradient before clipping", "step", "training"),
    Signal("samples", "1", "samples (sequences) trained in the run so far", "step", "training", "int64"),
    Signal("tokens", "1", "tokens trained in this step, all ranks together", "step", "training", "int64"),
    Signal(
        "step_s",
        "s",
        "duration of the step, from its start to the updated weights, on the slowest rank",
        "step",
        "training",
    ),
    Signal("skipped", "1", "1 where the ranks left the weights as they were, else 0", "step", "training", "uint8"),
    Signal("ranks", "1", "ranks that took part in the step", "step", "training", "int64"),
    Signal("communication_s", "s", "time blocked in collectives, mean over the ranks", "step", "communication"),
    Signal("rank_step_s", "s", "duration of the step on each rank", "rank", "training"),
    Signal("rank_communication_s", "s", "time each rank was blocked in collectives", "rank", "communication"),
    Signal("rank_sent_bytes", "B", "gradients each rank sent to other nodes in the step", "rank", "communication"),
    Signal(
        "compression_ratio",
        "1",
        "bytes of gradients between nodes without compression, over those sent; NaN where none are sent",
        "step",
        "communication",
    ),
    Signal("rank_rss_bytes", "B", "resident memory of each rank's process", "rank", "hardware"),
    Signal("rank_cpu_share", "1", "CPU seconds per second that each rank used (2: two cores)", "rank", "hardware"),
    Signal("gradient_variance", "1", "variance of the elements of each layer's gradient", "layer", "gradients"),
    Signal("held_out_loss", "nat/token", "cross-entropy of the next token, held-out data", "evaluation", "evaluation"),
    Signal("held_out_accuracy", "1", "share of next tokens predicted right, held-out data", "evaluation", "evaluation"),
)

SIGNALS: dict[str, Signal] = {signal.name: signal for signal in _ALL}


def of_kind(*kinds: Kind) -> list[Signal]:
    """The signals of these kinds, in the table's order."""
    return [signal for signal in _ALL if signal.kind in kinds]
