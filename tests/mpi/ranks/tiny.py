"""A model and a source small enough to train at four ranks on two cores, and what is compared of them."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from ryzen_mpi.config import Settings
from ryzen_mpi.data.markov import MarkovSource
from ryzen_mpi.data.random_tokens import RandomTokens
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.replicated import Replicated
from ryzen_mpi.training.step import StepOutcome, TrainingStep
from ryzen_mpi.training.strategy import VECTORS

STEPS = 5


def settings(**changes: Any) -> Settings:
    """Vocabulary 61, width 24, 2 layers, 12 tokens; `training__batch_size=3` changes a key."""
    tree: dict[str, dict[str, Any]] = {
        "model": dict(vocab_size=61, embedding_dim=24, num_heads=2, num_layers=2, feed_forward_dim=40, seq_length=12),
        "training": dict(batch_size=4, learning_rate=0.01, warmup_steps=2, max_steps=STEPS),
        "hardware": dict(dtype="float64"),
        "data": dict(source="markov", num_samples=240),
    }
    for key, value in changes.items():
        section, name = key.split("__")
        tree.setdefault(section, {})[name] = value
    return Settings.model_validate(tree)


def source(settings: Settings) -> MarkovSource | RandomTokens:
    kind = MarkovSource if settings.data.source == "markov" else RandomTokens
    return kind(settings.model.vocab_size, settings.model.seq_length, settings.data.num_samples, settings.training.seed)


def distributed(world, settings: Settings, global_batch: int, **more: Any) -> TrainingStep:
    """The step on all ranks, as the main job makes it."""
    return TrainingStep(settings, source(settings), world.rank, world.size, global_batch, **more)


def alone(solo, settings: Settings, global_batch: int, **more: Any) -> TrainingStep:
    """The same step computed by this rank alone, without a word to the others."""
    return TrainingStep(settings, source(settings), 0, 1, global_batch, group=solo, **more)


def with_reducer(reducer: Callable) -> Callable:
    """Stage 0 with another reducer."""
    return lambda model, settings, group: Replicated(model, settings, group, reducer)


def build_model(settings: Settings) -> Transformer:
    """The model with its first weights."""
    model = Transformer(settings)
    model.initialise(settings.training.seed)
    return model


def run(step: TrainingStep, steps: int = STEPS, before: Callable[[int], None] = lambda _: None) -> list[StepOutcome]:
    outcomes = []
    for number in range(1, steps + 1):
        before(number)
        outcomes.append(step.run())
    return outcomes


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).abs().max())


def vectors(step: TrainingStep) -> dict[str, torch.Tensor]:
    """Master weights and moments whole, wherever they are. Collective where they are in shards."""
    size = step.strategy.layout.size
    found = {name: torch.zeros(size, dtype=torch.float64) for name in VECTORS}
    if isinstance(step.strategy, Replicated):
        return {name: vector.clone() for name, vector in step.strategy.vectors()}
    for name, shard in step.strategy.vectors():
        for begin, values in step.strategy.cut.stretches(shard, step.strategy.ground.me):
            found[name][begin : begin + values.numel()] = values
    if step.ranks > 1:
        for vector in found.values():
            dist.all_reduce(vector, group=step.group)
    return found


def largest_vector_difference(one: TrainingStep, other: TrainingStep) -> float:
    """Over weights and moments."""
    ours, theirs = vectors(one), vectors(other)
    return max(largest_difference(ours[name], theirs[name]) for name in ours)


def fingerprint(step: TrainingStep) -> str:
    """A hash of every bit of weights, moments and counts."""
    digest = hashlib.sha256()
    for vector in vectors(step).values():
        digest.update(vector.numpy().tobytes())
    digest.update(f"{step.progress} {step.strategy.updates}".encode())
    return digest.hexdigest()


def same_everywhere(world, value: Any) -> bool:
    everyone = world.exchange.allgather(value)
    return all(other == everyone[0] for other in everyone)
