"""Virtual ranks: P ranks of data-parallel training played by one process, one after the other, for debugging.

The same parameters, losses and checkpoints as P real ranks of a node over backend mpi, bit for bit, because everything
is summed as they sum it: each rank's gradient over its own micro-batches, then ((g0 + g1) + g2) + ... element by
element (comm/reduce.h), and what ranks tell one another (loss, squared norm) as rows of the same table. Real ranks
compute with the threads their cores give them, and matrix products may round differently with more: see `threads`.
Gloo's ring adds in an order that depends on the place in the vector: with it the bits agree at two ranks only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ryzen_mpi.config import Settings
from ryzen_mpi.training.agreement import Table
from ryzen_mpi.training.evaluate import HeldOut, held_out_sums, of_sums
from ryzen_mpi.training.replicated import Replicated
from ryzen_mpi.training.step import Part, TrainingStep


class VirtualRanks(TrainingStep):
    """A TrainingStep whose ranks all live in this process, which is their rank 0. Needs one vector more for the sum."""

    strategy: Replicated

    def __init__(self, settings: Settings, source: Any, ranks: int, global_batch: int, **more: Any) -> None:
        super().__init__(settings, source, 0, ranks, global_batch, **more)
        self.sum = torch.zeros_like(self.strategy.flat.gradient)

    def _gradient(self, position: int, count: int, stop: int) -> tuple[Table, float, float]:
        gradient, parts = self.strategy.flat.gradient, []
        for rank in range(self.ranks):
            parts.append(self._forward_backward(position, count, rank))
            self.strategy.reduce()  # over this process alone: zeros where no sample of the rank reached
            if rank:
                self.sum.add_(gradient)
            else:
                self.sum.copy_(gradient)
        gradient.copy_(self.sum)
        squares = [self.strategy.square_norm_of(rank, self.ranks) for rank in range(self.ranks)]
        usage = self.usage.sample()
        rows = [self._row(stop, part, square, usage) for part, square in zip(parts, squares, strict=True)]
        return Table.of(rows), 0.0, 0.0

    def last_times(self) -> Table:
        return Table.of([self._row(0, Part(0.0, 0, 0, 0.0), 0.0, self.usage.sample())] * self.ranks)

    def evaluate(self, beat: Callable[[], object] = lambda: None) -> HeldOut:
        """Held-out figures of the model as it is, rank by rank as real ranks share the work. Local."""
        sums = torch.zeros(3, dtype=torch.float64)
        how = (self.settings.training.eval_samples, self.micro_batch)
        for rank in range(self.ranks):
            sums += held_out_sums(self.model, self.source, *how, rank, self.ranks, beat)
        return of_sums(sums)

    def _over_ranks(self, take: Callable[..., torch.Tensor]) -> torch.Tensor:
        sums = take(self.strategy.layer_parts_of(self.layers, 0, self.ranks))
        for rank in range(1, self.ranks):
            sums += take(self.strategy.layer_parts_of(self.layers, rank, self.ranks))
        return sums


def make_step(settings: Settings, source: Any, rank: int, ranks: int, global_batch: int, **more: Any) -> TrainingStep:
    """The step of rank `rank` of `ranks` processes, or of training.virtual_ranks in one. Collective."""
    if settings.training.virtual_ranks > 1:
        assert ranks == 1, "startup.check_processes refuses virtual ranks beside real ones"
        return VirtualRanks(settings, source, settings.training.virtual_ranks, global_batch, **more)
    return TrainingStep(settings, source, rank, ranks, global_batch, **more)


def threads(settings: Settings, cores: int) -> int:
    """Threads to compute with on `cores` cores: as many as each real rank would have where there are virtual ones."""
    return settings.hardware.num_threads or max(1, cores // settings.training.virtual_ranks)
