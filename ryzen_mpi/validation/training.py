"""Real training steps on all ranks, as the main job makes them, and a look between reduction and update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.cluster.exchange import wait
from ryzen_mpi.cluster.placement import bind_ranks
from ryzen_mpi.cluster.world import World
from ryzen_mpi.comm.rendezvous import process_group
from ryzen_mpi.config import Settings
from ryzen_mpi.data.choose import open_source
from ryzen_mpi.data.source import TokenSource
from ryzen_mpi.errors import UserError
from ryzen_mpi.model.dropout import mix
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.settings import load_settings
from ryzen_mpi.training.choose import make_strategy
from ryzen_mpi.training.flat import Layout
from ryzen_mpi.training.replicated import Replicated
from ryzen_mpi.training.step import TrainingStep
from ryzen_mpi.training.strategy import Strategy
from ryzen_mpi.validation.registry import Context

SMALL = (
    *("data.source=markov", "data.num_samples=1000000", "model.vocab_size=128", "model.embedding_dim=64"),
    *("model.num_heads=2", "model.num_layers=2", "model.feed_forward_dim=128", "model.seq_length=32"),
    *("training.batch_size=8", "training.schedule=constant", "training.warmup_steps=0", "training.max_steps=1000000"),
    *("training.learning_rate=0.003", "hardware.dtype=float32", "distributed.timeout_s=60"),
)
"""Over the default profile: steps of some milliseconds that learn, over every kind of layer the large models have."""


def settings_of(context: Context, words: Sequence[str] = ()) -> Settings:
    """The small model with `words` over it and what the person gave over both. Raises UserError."""
    settings = load_settings("default", (*SMALL, *words, *context.overrides))
    if settings.data.source == "text":
        raise UserError("data.source=text: this check trains synthetic tokens", "markov or random")
    if settings.distributed.compression != "none":
        raise UserError(
            "distributed.compression: this check asks whether sums are exact", "distributed.compression=none"
        )
    return settings


@contextmanager
def connected(context: Context, words: Sequence[str] = ()) -> Iterator[tuple[World, Settings]]:
    """The ranks of `context` bound and in a process group, as in the main job. Collective. Raises UserError."""
    world, settings = context.world, settings_of(context, words)
    assert world is not None
    place = bind_ranks(world, settings)
    torch.set_num_threads(settings.hardware.num_threads or place.mine.threads)
    with process_group(world, settings.distributed) as group:
        context.tell(f"{world.size} ranks, backend {group.description}")
        yield world, settings


def without_text(settings: Settings) -> TokenSource:
    """The source of `settings`, which is a synthetic one. Local."""
    return open_source(settings, Path())


Make = Callable[[Transformer, Settings, "dist.ProcessGroup | None"], Strategy]


def make_step(
    rank: int, ranks: int, settings: Settings, strategy: Make = make_strategy, group: dist.ProcessGroup | None = None
) -> TrainingStep:
    """The training step of `ranks` ranks. Collective over them."""
    return TrainingStep(
        settings, without_text(settings), rank, ranks, settings.global_batch(ranks), strategy=strategy, group=group
    )


class Watched:
    """A strategy that is looked at when gradients are reduced and nothing is updated yet; otherwise as it is.

    `look(strategy)` is called on all ranks alike in every step that is not skipped.
    """

    def __init__(self, strategy: Strategy, look: Callable[[Strategy], object]) -> None:
        self._strategy, self._look = strategy, look

    def __getattr__(self, name: str):
        return getattr(self._strategy, name)

    def update(self, factor: float, learning_rate: float) -> None:
        self._look(self._strategy)
        self._strategy.update(factor, learning_rate)


def watched(look: Callable[[Strategy], object], make: Make = make_strategy) -> Make:
    """`make` whose strategies are `Watched`."""
    return lambda model, settings, group: Watched(make(model, settings, group), look)


class Shares:
    """What this rank's backward passes hand over for reduction, taken beside the reducer and added up in float64.

    Attributes:
        total, magnitude: [size] sums of a step's gradients and of their absolute values.
        terms: micro-batches of it.
    """

    def __init__(self, step: TrainingStep) -> None:
        self.layout: Layout = step.strategy.layout
        self.total = torch.zeros(self.layout.size, dtype=torch.float64)
        self.magnitude = torch.zeros_like(self.total)
        self.terms = 0
        parameters = dict(step.model.named_parameters())
        for place in self.layout.places:
            parameters[place.name].register_hook(partial(self._take, slice(place.offset, place.end)))
        parameters[self.layout.places[0].name].register_hook(self._count)

    def clear(self) -> None:
        """A step starts."""
        self.total.zero_()
        self.magnitude.zero_()
        self.terms = 0

    def _take(self, where: slice, gradient: Tensor) -> None:
        values = gradient.detach().reshape(-1).double()
        self.total[where] += values
        self.magnitude[where] += values.abs()

    def _count(self, _: Tensor) -> None:
        self.terms += 1


def gradient_of(strategy: Strategy) -> Tensor:
    """[size] float64: the reduced gradient where this rank holds all of it, else its shard among zeros. Local."""
    if strategy.cut is None:
        return strategy.flat.gradient.double()
    whole = torch.zeros(strategy.layout.size, dtype=torch.float64)
    for begin, values in strategy.cut.stretches(strategy.shard.gradient, strategy.ground.me):
        whole[begin : begin + values.numel()] = values
    return whole


def copies(strategy: Strategy) -> dict[str, Tensor]:
    """What every rank holds a copy of and must be the same on all, by name; flat views. Local."""
    if isinstance(strategy, Watched):
        strategy = strategy._strategy
    if isinstance(strategy, Replicated):
        return {"weights": strategy.flat.master, "working weights": strategy.flat.working}
    return {"working weights": strategy.ground.weights}


def summed_on_leader(world: World, vector: Tensor) -> Tensor:
    """The sum over ranks of a float64 vector, on rank 0; zeros elsewhere. Collective.

    By the communicator where there is one, and added up in rank order by rank 0: not by the reduction under test.
    """
    if world.size == 1:
        return vector.clone()
    if world.comm is not None:
        rows = np.empty((world.size, vector.numel())) if world.is_leader else None
        wait(world.comm.Igather(vector.numpy(), rows, root=0))
        return torch.from_numpy(rows.sum(axis=0)) if rows is not None else torch.zeros_like(vector)
    parts = [torch.empty_like(vector) for _ in range(world.size)] if world.is_leader else None
    dist.gather(vector, parts, dst=0)
    return torch.stack(parts).sum(dim=0) if parts is not None else torch.zeros_like(vector)


class Reference:
    """The gradient of a global batch by one process in float64: plain autograd, no strategy, no reducer. Local.

    It has a source of its own: what it reads is not trained.
    """

    def __init__(self, step: TrainingStep) -> None:
        self.step, self.source = step, without_text(step.settings)
        self.model = Transformer(step.settings).double()

    def gradient(self, position: int, count: int) -> Tensor:
        """[size] for the weights that `step` computes with now and `count` stream positions from `position`."""
        step, settings = self.step, self.step.settings
        with torch.no_grad():
            for mine, theirs in zip(self.model.parameters(), step.model.parameters(), strict=True):
                mine.copy_(theirs)
        self.model.zero_grad()
        scale = 1.0 / (count * settings.model.seq_length)
        for start in range(position, position + count, 64):
            length = min(64, position + count - start)
            samples = torch.from_numpy(self.source.sample(step.sampler.indices(start, length)))
            positions = range(start, start + length)
            keys = tuple(mix(settings.training.seed, p) for p in positions) if settings.model.dropout else None
            loss, _ = self.model(samples[:, :-1], samples[:, 1:], scale, keys)
            loss.backward()
        layout = step.strategy.layout
        whole = torch.zeros(layout.size, dtype=torch.float64)
        gradients = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        for place in layout.places:
            if gradients[place.name] is not None:
                whole[place.offset : place.end] = gradients[place.name].reshape(-1)
        return whole
