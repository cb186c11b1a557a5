"""Gradients and weights of real training steps, held against the other ranks and against one process in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings
from ryzen_mpi.data.source import TokenSource
from ryzen_mpi.training.replicas import Difference, differences, place_of
from ryzen_mpi.training.step import StepOutcome, TrainingStep
from ryzen_mpi.training.strategy import DTYPES, Strategy
from ryzen_mpi.validation.rounding import gradient_bound, sum_bound
from ryzen_mpi.validation.training import (
    Reference,
    Shares,
    copies,
    gradient_of,
    summed_on_leader,
    watched,
    without_text,
)

RTOL, ATOL = 1e-5, 1e-7
"""Of the documents' allclose (E4)."""


@dataclass
class Seen:
    """What the sampled steps showed. Rank 0's counts; `differences` and `problems` are alike on all ranks.

    Attributes:
        steps, equal: sampled; of them those whose gradients and weights were the same on all ranks, bit for bit.
        ulp: largest distance between ranks.
        sum_shares: largest error of the reduced gradient as a share of the bound of its sum, a value a step.
        errors, close, cosines: of the reduced gradient against the reference: relative L2 norm of the difference,
            share of elements within RTOL and ATOL, cosine of the angle.
        bound: of `errors`.
        norm_differences: of the gradient's norm between ranks, relative.
        micro_batches: of all ranks together, a value a step.
        problems: sentences.
    """

    bound: float = 0.0
    steps: int = 0
    equal: int = 0
    ulp: int = 0
    sum_shares: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    close: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    norm_differences: list[float] = field(default_factory=list)
    micro_batches: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Inspection:
    """A training step on all ranks that is inspected in every step. Collective throughout.

    Args:
        source: what is trained instead of the settings' own.

    Attributes:
        step, seen: what trains, and what was found.
    """

    def __init__(self, world: World, settings: Settings, source: TokenSource | None = None) -> None:
        self.world, self.settings = world, settings
        self.seen = Seen(bound=_bound(settings))
        self.step = TrainingStep(
            settings,
            source or without_text(settings),
            world.rank,
            world.size,
            settings.global_batch(world.size),
            strategy=watched(self._look),
        )
        self._shares = Shares(self.step)
        self._reference = Reference(self.step) if world.is_leader else None
        self._found: list[tuple[str, Difference]] = []

    def run(self, steps: int) -> Seen:
        """Trains and inspects `steps` steps; ends after one in which ranks differ, from which the others follow."""
        for _ in range(steps):
            outcome = self.one()
            if outcome.skipped or self._found:
                break
        return self.seen

    def one(self) -> StepOutcome:
        """The next step."""
        self._found = []
        self._shares.clear()
        outcome = self.step.run()
        number = outcome.step
        if outcome.skipped:
            self.seen.problems.append(f"step {number} was skipped: a loss or gradient of some rank was not finite")
        for name, vector in copies(self.step.strategy).items():
            self._found += [(name, difference) for difference in differences(self.world, vector)]
        layout = self.step.strategy.layout
        for name, difference in self._found:
            self.seen.problems.append(difference.told(name, number, place_of(layout, difference.element)))
            self.seen.ulp = max(self.seen.ulp, difference.ulp)
        self.seen.steps += 1
        self.seen.equal += not self._found and not outcome.skipped
        return outcome

    def _look(self, strategy: Strategy) -> None:
        """Between reduction and update."""
        world, seen = self.world, self.seen
        gradient = gradient_of(strategy)
        if strategy.cut is None:
            self._found += [("gradient", difference) for difference in differences(world, strategy.flat.gradient)]
            norms = world.exchange.allgather(float(torch.linalg.vector_norm(gradient)))
            seen.norm_differences.append((max(norms) - min(norms)) / max(norms) if max(norms) else 0.0)
        else:
            gradient = summed_on_leader(world, gradient)
        total = summed_on_leader(world, self._shares.total)
        magnitude = summed_on_leader(world, self._shares.magnitude)
        terms = sum(world.exchange.allgather(self._shares.terms))
        seen.micro_batches.append(terms)
        if world.is_leader:
            seen.sum_shares.append(_largest_share(gradient, total, magnitude, terms, _wide(self.settings)))
            self._against_reference(gradient)
        world.exchange.broadcast(None)  # the others wait here, without a timeout, while rank 0 computes alone

    def _against_reference(self, gradient: Tensor) -> None:
        step, seen = self.step, self.seen
        count = min(step.global_batch, step.total_samples - step.progress.samples)
        expected = self._reference.gradient(step.progress.samples, count)
        size = float(torch.linalg.vector_norm(expected))
        off = (gradient - expected).abs()
        seen.errors.append(float(torch.linalg.vector_norm(off)) / size)
        seen.close.append(float((off <= ATOL + RTOL * expected.abs()).double().mean()))
        seen.cosines.append(float(gradient @ expected) / (float(torch.linalg.vector_norm(gradient)) * size))


def _wide(settings: Settings) -> torch.dtype:
    """What gradients are added up in."""
    return torch.promote_types(DTYPES[settings.hardware.dtype], torch.float32)


def _bound(settings: Settings) -> float:
    model, training = settings.model, settings.training
    tokens = training.batch_size * model.seq_length
    longest = max(model.embedding_dim, model.feed_forward_dim, model.vocab_size, tokens)
    return gradient_bound(model.num_layers, longest, DTYPES[settings.hardware.dtype])


def _largest_share(gradient: Tensor, total: Tensor, magnitude: Tensor, terms: int, dtype: torch.dtype) -> float:
    """The largest error of a sum over its bound; infinite where a sum that must be exact is not."""
    bound = sum_bound(magnitude, terms, dtype) + sum_bound(magnitude, terms, torch.float64)  # of the comparison's own
    off = (gradient - total).abs()
    share = torch.where(off == 0, torch.zeros_like(off), off / bound)
    return float(share.max()) if not share.isnan().any() else float("inf")
