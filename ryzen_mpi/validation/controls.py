"""Training with a known mistake: what a check of convergence must notice, or it is no check.

Each is a strategy around the real one, used by `trainings.py` alone; nothing of training knows of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist

from ryzen_mpi.config import Settings
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.choose import make_strategy
from ryzen_mpi.training.reduce import world_size
from ryzen_mpi.training.strategy import Strategy


class _Around:
    """A strategy that does what another does."""

    def __init__(self, model: Transformer, settings: Settings, group: dist.ProcessGroup | None) -> None:
        self._strategy: Strategy = make_strategy(model, settings, group)
        self._ranks = world_size(group)
        self._rank = dist.get_rank(group) if self._ranks > 1 else 0

    def __getattr__(self, name: str):
        return getattr(self._strategy, name)


class Summed(_Around):
    """Gradients of the ranks summed where they have to be averaged: P times too large.

    Adam divides by the gradient's own size, and clipping sets it: losses hardly show this, the gradient's norm does.
    """

    def reduce(self) -> float:
        blocked_s = self._strategy.reduce()
        part = self._strategy.flat.gradient if self._strategy.cut is None else self._strategy.shard.gradient
        part.mul_(self._ranks)
        return blocked_s


class Frozen(_Around):
    """The last rank keeps its first weights, and hands over the gradients it finds there."""

    def update(self, factor: float, learning_rate: float) -> None:
        mine = dict(self._strategy.vectors())["model"]
        before = mine.clone()
        self._strategy.update(factor, learning_rate)
        if self._rank == self._ranks - 1:
            mine.copy_(before)
        self._strategy.settle()


CONTROLS: dict[str, Callable[[Transformer, Settings, dist.ProcessGroup | None], Strategy]] = {
    "summed": Summed,
    "frozen": Frozen,
}
"""By name. On one rank they are no mistakes."""
