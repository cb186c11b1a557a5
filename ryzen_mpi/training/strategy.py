"""How ranks share the work of a step's gradients and update: everybody everything (stage 0), or shards (ZeRO)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ryzen_mpi.comm.arena import shared_memory
from ryzen_mpi.config import Settings
from ryzen_mpi.training.flat import FlatParameters, Layout
from ryzen_mpi.training.optimizer import FlatOptimizer
from ryzen_mpi.training.reduce import ArenaReducer, BucketedReducer, Reducer, broadcast_vector, world_size
from ryzen_mpi.training.zero.cut import Cut, Owner

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
VECTORS = ("model", "first", "second")
"""What a checkpoint holds of every parameter: weights and the optimiser's two moments, in master precision."""
Stretch = tuple[str, int, Tensor]
"""Some of a vector: which, where its first element lies in the layout, and the elements."""


class Strategy(Protocol):
    """All ranks construct it alike and call its collective methods together, in this order in every step.

    Attributes:
        layout: where the parameters lie.
        updates: updates made, which the bias correction depends on.
        cut, owners: how they are cut into shards, and whose is whose, by rank; None where every rank has all.
    """

    layout: Layout
    updates: int
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

    def layer_moments(self, layers: Mapping[str, list[int]]) -> Tensor:
        """[layers, 2] sums of the gradient and of its square, by layer (numbers of its places). Collective."""

    def update(self, factor: float, learning_rate: float) -> None:
        """One update of the weights by `factor` times the gradient. Collective."""

    def vectors(self) -> Iterable[tuple[str, Tensor]]:
        """Weights and moments by name (VECTORS), or this rank's shard of each; views. Local."""

    def load(self, stretches: Iterable[Stretch]) -> None:
        """Takes what concerns this rank. Local; `settle` must follow."""

    def settle(self) -> None:
        """After `load`: the model computes with what was loaded. Collective."""


class Replicated:
    """Stage 0: every rank holds and updates everything. See `Strategy`.

    Attributes:
        flat, optimizer, reducer: weights and gradient, moments, and how gradients come together.
    """

    cut = None
    owners: list[Owner] = []

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        group: dist.ProcessGroup | None,
        reducer: Callable[[FlatParameters, dist.ProcessGroup | None], Reducer] | None = None,
    ) -> None:
        self.group, self.ranks = group, world_size(group)
        self.rank = dist.get_rank(group) if self.ranks > 1 else 0
        shared = shared_memory(group) if settings.distributed.arena else None
        self.flat = FlatParameters(model, DTYPES[settings.hardware.dtype], shared)
        self.layout = self.flat.layout
        if self.ranks > 1:
            broadcast_vector(self.flat.master, group)
        self.flat.publish()
        choice = reducer or (BucketedReducer if shared is None else ArenaReducer)
        self.reducer: Reducer = choice(self.flat, group)
        self.optimizer = FlatOptimizer(self.flat, settings.training)

    @property
    def updates(self) -> int:
        return self.optimizer.updates

    @updates.setter
    def updates(self, count: int) -> None:
        self.optimizer.updates = count

    def begin(self) -> None:
        self.reducer.begin()

    def before_backward(self, last: bool) -> None:
        if last:
            self.reducer.last_micro_batch()

    def after_micro_batch(self) -> None:
        pass

    def reduce(self) -> float:
        return self.reducer.finish()

    def square_norm(self) -> float:
        share = -(-self.layout.size // self.ranks)
        return square_sum(self.flat.gradient[share * self.rank : share * (self.rank + 1)])

    def layer_moments(self, layers: Mapping[str, list[int]]) -> Tensor:
        parts = ([self.flat.view(self.flat.gradient, self.layout.places[n]) for n in layers[name]] for name in layers)
        return torch.tensor([moments(part) for part in parts], dtype=torch.float64)

    def update(self, factor: float, learning_rate: float) -> None:
        if factor != 1.0:
            self.flat.gradient.mul_(factor)
        self.optimizer.step(learning_rate)
        self.flat.publish()

    def vectors(self) -> Iterable[tuple[str, Tensor]]:
        return zip(VECTORS, (self.flat.master, self.optimizer.first, self.optimizer.second), strict=True)

    def load(self, stretches: Iterable[Stretch]) -> None:
        vectors = dict(self.vectors())
        for name, begin, values in stretches:
            vectors[name][begin : begin + values.numel()].copy_(values)

    def settle(self) -> None:
        self.flat.publish()


def square_sum(values: Tensor) -> float:
    """Sum of squares, in float32 or wider; reads the values once and allocates nothing."""
    return float(torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32))) ** 2


def moments(parts: Iterable[Tensor]) -> tuple[float, float]:
    """Sums of the values and of their squares over all `parts`."""
    parts = list(parts)
    return sum(float(part.sum()) for part in parts), sum(square_sum(part) for part in parts)


def make_strategy(model: nn.Module, settings: Settings, group: dist.ProcessGroup | None) -> Strategy:
    """What `hardware.zero_stage` asks for. Collective. Raises UserError where shared memory is too small."""
    if settings.hardware.zero_stage == 0:
        return Replicated(model, settings, group)
    from ryzen_mpi.training.zero.sharded import Sharded

    return Sharded(model, settings, group)
