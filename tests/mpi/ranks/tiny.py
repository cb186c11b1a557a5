"""A model and a source small enough to train at four ranks on two cores, and what is compared of them."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from ryzen_mpi.config import Settings
from ryzen_mpi.data.markov import MarkovSource
from ryzen_mpi.data.random_tokens import RandomTokens
from ryzen_mpi.training.step import StepOutcome, TrainingStep

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


def run(step: TrainingStep, steps: int = STEPS, before: Callable[[int], None] = lambda _: None) -> list[StepOutcome]:
    outcomes = []
    for number in range(1, steps + 1):
        before(number)
        outcomes.append(step.run())
    return outcomes


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).abs().max())


def fingerprint(step: TrainingStep) -> str:
    """A hash of every bit of weights, moments and counts."""
    digest = hashlib.sha256()
    for vector in (step.flat.master, step.optimizer.first, step.optimizer.second):
        digest.update(vector.numpy().tobytes())
    digest.update(f"{step.progress} {step.optimizer.updates}".encode())
    return digest.hexdigest()


def same_everywhere(world, value: Any) -> bool:
    everyone = world.exchange.allgather(value)
    return all(other == everyone[0] for other in everyone)
