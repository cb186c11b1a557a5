"""One training step, from sample indices to updated weights: forward, backward, reduce, agree, update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from ryzen_mpi.config import Settings
from ryzen_mpi.data.sampler import Sampler, rank_slice
from ryzen_mpi.data.source import TokenSource
from ryzen_mpi.model.dropout import mix
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.agreement import Agreement, Row, Table, Usage
from ryzen_mpi.training.choose import make_strategy
from ryzen_mpi.training.evaluate import HeldOut, evaluate
from ryzen_mpi.training.flat import layers_of
from ryzen_mpi.training.schedule import learning_rate
from ryzen_mpi.training.strategy import Strategy


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
        gradient_variance: of each layer's gradient elements before clipping, every training.log_interval steps.
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
    gradient_variance: list[float] | None
    step_s: float
    communication_s: float

    @property
    def compression_ratio(self) -> float:
        """Uncompressed over sent bytes between nodes, all ranks together; NaN where none are sent, or not known."""
        sent = float(self.table.sent_bytes.sum())
        return float(self.table.plain_bytes.sum()) / sent if sent else math.nan


@dataclass(frozen=True)
class Part:
    """One rank's part in a step: of the loss (nats per token; the parts add up), right predictions, and tokens."""

    loss: float
    right: int
    tokens: int


class TrainingStep:
    """The state of training on one rank and the step that moves it on.

    All ranks construct it alike and call `run` together. A checkpoint keeps `progress` and what `strategy` holds.
    """

    def __init__(
        self,
        settings: Settings,
        source: TokenSource,
        rank: int,
        ranks: int,
        global_batch: int,
        strategy: Callable[[Transformer, Settings, dist.ProcessGroup | None], Strategy] = make_strategy,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.settings, self.source, self.rank, self.ranks, self.group = settings, source, rank, ranks, group
        self.global_batch = global_batch
        self.total_samples = settings.training.total_epochs * source.num_samples
        self.sampler = Sampler(source.num_samples, settings.training.seed)
        self.model = Transformer(settings)
        self.strategy = strategy(self.model, settings, group)
        self.layers = layers_of(self.strategy.layout)
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
        table, communication_s = self._gradient(done.samples, count, stop)
        skipped = not table.finite.all()
        norm = math.sqrt(table.square_norm.sum())
        rate = learning_rate(done.step, self.total_steps, self.settings.training)
        variance = self._variance() if (done.step + 1) % self.settings.training.log_interval == 0 else None
        if not skipped:
            clip = self.settings.training.clip_norm
            self.strategy.update(clip / norm if clip and norm > clip else 1.0, rate)
        self.progress = Progress(done.step + 1, done.samples + count, done.skipped + skipped)
        self._last = (time.perf_counter() - started, communication_s)
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
            variance,
            *self._last,
        )

    def last_times(self) -> Table:
        """The rows of all ranks with the times of the newest step, for the record of the last one. Collective."""
        rss, cpu_share = self.usage.sample()
        return self.agreement.gather(Row(1, 0, 0, 0, 0, 0, 0, 0, *self._last, rss, cpu_share))[0]

    def evaluate(self, beat: Callable[[], object] = lambda: None) -> HeldOut:
        """Held-out figures of the model as it is. Collective. `beat` is called after each batch."""
        training = self.settings.training
        samples, batch = training.eval_samples, training.batch_size
        return evaluate(self.model, self.source, samples, batch, self.rank, self.ranks, beat)

    def micro_batches(self, position: int, count: int, rank: int | None = None) -> Iterator[np.ndarray]:
        """This rank's (or `rank`'s) share of `count` stream positions from `position`, at most batch_size at a time."""
        share = rank_slice(count, self.rank if rank is None else rank, self.ranks)
        positions = np.arange(position + share.start, position + share.stop)
        size = self.settings.training.batch_size
        for start in range(0, len(positions), size):
            yield positions[start : start + size]

    def _gradient(self, position: int, count: int, stop: int) -> tuple[Table, float]:
        """The sum over ranks of the gradients of `count` samples from `position`, left in the strategy. Collective.

        Returns the rows of all ranks, and the seconds this rank was blocked.
        """
        part = self._forward_backward(position, count, self.rank)
        blocked_s = self.strategy.reduce()
        row = self._row(stop, part, self.strategy.square_norm(), *self.usage.sample())
        table, agreed_s = self.agreement.gather(row)
        return table, blocked_s + agreed_s

    def _row(self, stop: int, part: Part, square: float, rss: int, cpu_share: float) -> Row:
        """A rank's words at a step of which it did `part`; `square`: its part of the gradient's squared norm."""
        finite, sent = math.isfinite(part.loss) and math.isfinite(square), self.strategy.traffic
        sums = (part.loss, square, part.right, part.tokens, sent.sent, sent.plain)
        return Row(finite, stop, *sums, *self._last, rss, cpu_share)

    def _forward_backward(self, position: int, count: int, rank: int) -> Part:
        """The part of `rank` in a step of `count` samples from `position`; gradients on their way."""
        seed, dropout = self.settings.training.seed, self.settings.model.dropout
        scale = 1.0 / (count * self.settings.model.seq_length)
        self.model.train()
        self.strategy.begin()
        batches = list(self.micro_batches(position, count, rank))
        loss, right = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        for number in range(self._rounds(count)):
            if number < len(batches):
                positions = batches[number]
                indices = self.sampler.indices(int(positions[0]), len(positions))
                samples = torch.from_numpy(self.source.sample(indices))
                keys = tuple(mix(seed, int(p)) for p in positions) if dropout else None
                part, hits = self.model(samples[:, :-1], samples[:, 1:], scale, keys)
                self.strategy.before_backward(last=number + 1 == len(batches))
                part.backward()
                loss += part.detach()
                right += hits
            self.strategy.after_micro_batch()
        return Part(float(loss), int(right), sum(map(len, batches)) * self.settings.model.seq_length)

    def _rounds(self, count: int) -> int:
        """Micro-batches of the rank that has the most, of a step of `count` samples."""
        most = rank_slice(count, 0, self.ranks)
        return -(-(most.stop - most.start) // self.settings.training.batch_size)

    def _variance(self) -> list[float]:
        """Variance of each layer's gradient elements. Collective."""
        places, sums = self.strategy.layout.places, self._moments()
        sizes = [sum(places[number].shape.numel() for number in numbers) for numbers in self.layers.values()]
        return [square / size - (total / size) ** 2 for (total, square), size in zip(sums.tolist(), sizes, strict=True)]

    def _moments(self) -> torch.Tensor:
        """[layers, 2] sums of the gradient and of its square over all ranks. Collective."""
        sums = self.strategy.layer_moments(self.layers)
        if self.ranks > 1:
            dist.all_reduce(sums, group=self.group)
        return sums
