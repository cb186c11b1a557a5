"""How ranks share the work of a step's gradients and update: everybody everything (stage 0), or shards (ZeRO)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from ryzen_mpi.comm.compression.wire import Traffic
from ryzen_mpi.training.flat import Layout
from ryzen_mpi.training.zero.cut import Cut, Owner

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
VECTORS = ("model", "first", "second")
"""What a checkpoint holds of every parameter: weights and the optimiser's two moments, in master precision."""
Stretch = tuple[str, int, Tensor]
"""Some of a vector: which, where its first element lies in the layout, and the elements."""


class Strategy(Protocol):
    """All ranks construct it alike and call its collective methods together, in this order in every step.

    Attributes:
        description: of how the work is shared, and on what, with the reason.
        layout: where the parameters lie.
        updates: updates made, which the bias correction depends on.
        traffic: what this rank has sent of gradients to other nodes since `begin`.
        cut, owners: how they are cut into shards, and whose is whose, by rank; None where every rank has all.
    """

    description: str
    layout: Layout
    updates: int
    traffic: Traffic
    cut: Cut | None
    owners: list[Owner]

    def begin(self) -> None:
        """A step starts: what backward delivers next replaces the gradient. Local."""

    def before_backward(self, last: bool) -> None:
        """The next backward is this rank's last of the step, or not. Local."""

    def after_micro_batch(self) -> None:
        """Called once for every micro-batch of the rank that has the most. Collective."""

    def reduce(self) -> float:
        """The gradient becomes the sum over ranks; the seconds of the step this rank was blocked. Collective."""

    def square_norm(self) -> float:
        """This rank's part of the gradient's squared L2 norm; the parts of all ranks add up to it. Local."""

    def layer_parts(self, layers: Mapping[str, list[int]]) -> Iterable[Iterable[Tensor]]:
        """This rank's parts of the gradient, by layer (numbers of its places); all ranks' are the whole. Local."""

    def update(self, factor: float, learning_rate: float) -> None:
        """One update of the weights by `factor` times the gradient. Collective."""

    def vectors(self) -> Iterable[tuple[str, Tensor]]:
        """Weights and moments by name (VECTORS), or this rank's shard of each; views. Local."""

    def load(self, stretches: Iterable[Stretch]) -> None:
        """Takes what concerns this rank. Local; `settle` must follow."""

    def weights(self) -> Iterable[Tensor]:
        """What all ranks must have alike, bit for bit: the weights they compute with, and what those are made from
        where every rank has it; views. Local."""

    def settle(self) -> None:
        """After `load`: the model computes with what was loaded. Collective."""


def square_sum(values: Tensor) -> float:
    """Sum of squares, in float32 or wider; reads the values once and allocates nothing."""
    return float(torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32))) ** 2


def layer_moments(layers: Iterable[Iterable[Tensor]]) -> Tensor:
    """[layers, 2] sums of the values and of their squares over all parts of each layer."""
    rows = []
    for parts in map(list, layers):
        rows.append((sum(float(part.sum()) for part in parts), sum(square_sum(part) for part in parts)))
    return torch.tensor(rows, dtype=torch.float64)


EDGES = torch.cat([-(10.0 ** torch.arange(2, -13, -0.25)), torch.zeros(1), 10.0 ** torch.arange(-12, 2.25, 0.25)])
"""Of the bins of gradients: four a power of ten, on both sides of zero; what lies outside counts in the outermost."""


def layer_counts(layers: Iterable[Iterable[Tensor]]) -> Tensor:
    """[layers, bins] how many values of each layer lie between which EDGES; those that are no numbers nowhere."""
    rows = []
    for parts in layers:
        counts = torch.zeros(len(EDGES) - 1, dtype=torch.float64)
        for part in parts:
            inside = part.detach().flatten().float().clamp(EDGES[0], EDGES[-1])
            counts += torch.histogram(inside[inside.isfinite()], EDGES).hist.double()
        rows.append(counts)
    return torch.stack(rows)
