"""One training step, from sample indices to updated weights: forward, backward, reduce, agree, update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from ryzen_mpi.comm.arena import shared_memory
from ryzen_mpi.config import Settings
from ryzen_mpi.data.sampler import Sampler, rank_slice
from ryzen_mpi.data.source import TokenSource
from ryzen_mpi.model.dropout import mix
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.agreement import Agreement, Row, Table, Usage
from ryzen_mpi.training.evaluate import HeldOut, evaluate
from ryzen_mpi.training.flat import FlatParameters
from ryzen_mpi.training.optimizer import FlatOptimizer
from ryzen_mpi.training.reduce import ArenaReducer, BucketedReducer, Reducer, broadcast_weights, gradient_norm
from ryzen_mpi.training.schedule import learning_rate

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Progress:
    """How far a run is; with weights and moments, all that a resume needs.

    Attributes:
        step: steps taken, skipped ones included.
        samples: positions of the sample stream consumed.
        skipped: steps whose update was left out because a gradient or loss was not finite.
    """

    step: int = 0
    samples: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class StepOutcome:
    """What all ranks know after a step.

    Attributes:
        step, samples, tokens: 1-based number of the step; samples trained so far; tokens of this step.
        loss: nats per token over the global batch.
        accuracy: share of next tokens whose logit was the largest.
        gradient_norm: global L2 norm before clipping.
        learning_rate: of this step.
        skipped: no rank updated its weights.
        stop: number of the signal some rank was asked to stop with, or 0.
        table: every rank's row; its times are those of the step before.
        step_s, communication_s: this rank's.
    """

    step: int
    samples: int
    tokens: int
    loss: float
    accuracy: float
    gradient_norm: float
    learning_rate: float
    skipped: bool
    stop: int
    table: Table
    step_s: float
    communication_s: float


class TrainingStep:
    """The state of training on one rank and the step that moves it on.

    All ranks construct it alike and call `run` together. A checkpoint keeps `progress`, `flat` and `optimizer`.
    """

    def __init__(
        self,
        settings: Settings,
        source: TokenSource,
        rank: int,
        ranks: int,
        global_batch: int,
        reducer: Callable[[FlatParameters, dist.ProcessGroup | None], Reducer] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.settings, self.source, self.rank, self.ranks, self.group = settings, source, rank, ranks, group
        self.global_batch = global_batch
        self.total_samples = settings.training.total_epochs * source.num_samples
        self.sampler = Sampler(source.num_samples, settings.training.seed)
        self.model = build_model(settings)
        shared = shared_memory(group) if settings.distributed.arena else None
        self.flat = FlatParameters(self.model, DTYPES[settings.hardware.dtype], shared)
        broadcast_weights(self.flat, group)
        choice = reducer or (BucketedReducer if shared is None else ArenaReducer)
        self.reducer: Reducer = choice(self.flat, group)
        self.optimizer = FlatOptimizer(self.flat, settings.training)
        self.agreement, self.usage = Agreement(group), Usage()
        self.progress = Progress()
        if settings.hardware.compile:
            self.model.compile_blocks()
        self._last = (math.nan, math.nan)

    @property
    def total_steps(self) -> int:
        """Steps the whole run has: those taken, and those the samples left will make, up to training.max_steps."""
        left = self.total_samples - self.progress.samples
        steps = self.progress.step + -(-left // self.global_batch)
        return min(steps, self.settings.training.max_steps or steps)

    def run(self, stop: int = 0) -> StepOutcome:
        """Trains the next step. Collective. `stop`: the signal this rank was asked to stop with, or 0."""
        started = time.perf_counter()
        done = self.progress
        count = min(self.global_batch, self.total_samples - done.samples)
        tokens = count * self.settings.model.seq_length
        loss, right, mine = self._forward_backward(done.samples, count, 1.0 / tokens)
        communication_s = self.reducer.finish()
        norm = gradient_norm(self.flat)
        finite = math.isfinite(loss) and math.isfinite(norm)
        rss, cpu_share = self.usage.sample()
        table, agreed_s = self.agreement.gather(
            Row(finite, stop, loss, right, mine, self._last[0], self._last[1], rss, cpu_share)
        )
        skipped = not table.finite.all()
        rate = learning_rate(done.step, self.total_steps, self.settings.training)
        if not skipped:
            self._update(norm, rate)
        self.progress = Progress(done.step + 1, done.samples + count, done.skipped + skipped)
        self._last = (time.perf_counter() - started, communication_s + agreed_s)
        return StepOutcome(
            self.progress.step,
            self.progress.samples,
            tokens,
            float(table.loss.sum()),
            float(table.right.sum() / tokens),
            norm,
            rate,
            skipped,
            int(table.stop.max()),
            table,
            *self._last,
        )

    def last_times(self) -> Table:
        """The rows of all ranks with the times of the newest step, for the record of the last one. Collective."""
        rss, cpu_share = self.usage.sample()
        return self.agreement.gather(Row(1, 0, 0, 0, 0, *self._last, rss, cpu_share))[0]

    def evaluate(self, beat: Callable[[], object] = lambda: None) -> HeldOut:
        """Held-out figures of the model as it is. Collective. `beat` is called after each batch."""
        training = self.settings.training
        samples, batch = training.eval_samples, training.batch_size
        return evaluate(self.model, self.source, samples, batch, self.rank, self.ranks, beat)

    def micro_batches(self, position: int, count: int) -> Iterator[np.ndarray]:
        """This rank's share of `count` stream positions from `position`, in micro-batches of at most batch_size."""
        share = rank_slice(count, self.rank, self.ranks)
        positions = np.arange(position + share.start, position + share.stop)
        size = self.settings.training.batch_size
        for start in range(0, len(positions), size):
            yield positions[start : start + size]

    def _forward_backward(self, position: int, count: int, scale: float) -> tuple[float, int, int]:
        """This rank's part of the loss, its right predictions and its tokens; gradients on their way."""
        seed, dropout = self.settings.training.seed, self.settings.model.dropout
        self.model.train()
        self.reducer.begin()
        batches = list(self.micro_batches(position, count))
        loss, right = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        for number, positions in enumerate(batches, start=1):
            indices = self.sampler.indices(int(positions[0]), len(positions))
            samples = torch.from_numpy(self.source.sample(indices))
            keys = tuple(mix(seed, int(p)) for p in positions) if dropout else None
            part, hits = self.model(samples[:, :-1], samples[:, 1:], scale, keys)
            if number == len(batches):
                self.reducer.last_micro_batch()
            part.backward()
            loss += part.detach()
            right += hits
        return float(loss), int(right), sum(map(len, batches)) * self.settings.model.seq_length

    def _update(self, norm: float, rate: float) -> None:
        clip = self.settings.training.clip_norm
        if clip and norm > clip:
            self.flat.gradient.mul_(clip / norm)
        self.optimizer.step(rate)
        self.flat.publish()


def build_model(settings: Settings) -> Transformer:
    """The model with its first weights, a function of the seed alone."""
    model = Transformer(settings)
    model.initialise(settings.training.seed)
    return model
