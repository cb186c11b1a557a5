"""One training step, from sample indices to updated weights: forward, backward, reduce, agree, update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist

from ryzen_mpi.config import Settings
from ryzen_mpi.data.sampler import Sampler, rank_slice
from ryzen_mpi.data.source import TokenSource
from ryzen_mpi.model.dropout import mix
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.agreement import UNKNOWN, Agreement, Row, Table, Usage
from ryzen_mpi.training.choose import make_strategy
from ryzen_mpi.training.detours import Detours
from ryzen_mpi.training.evaluate import HeldOut, evaluate
from ryzen_mpi.training.flat import layers_of
from ryzen_mpi.training.look import Calm, Judge, Look
from ryzen_mpi.training.own_norm import OwnNorm
from ryzen_mpi.training.schedule import learning_rate
from ryzen_mpi.training.strategy import Strategy, layer_counts, layer_moments


@dataclass(frozen=True)
class Progress:
    """How far a run is; with weights and moments, all that a resume needs.

    Attributes:
        step: steps taken, skipped ones included.
        samples: positions of the sample stream consumed.
        skipped: steps whose update was left out.
        rate_factor, lowered_until: what the learning rate is multiplied by up to that step, where it had to be lowered.
    """

    step: int = 0
    samples: int = 0
    skipped: int = 0
    rate_factor: float = 1.0
    lowered_until: int = 0

    @property
    def factor(self) -> float:
        """What the next step's learning rate is multiplied by."""
        return self.rate_factor if self.step < self.lowered_until else 1.0


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
        gradient_counts: [layers, bins] at the same steps, where monitor.tensorboard wants them (strategy.layer_counts).
        step_s, communication_s, reduce_s: this rank's; the last, of communication, is the gradients' alone.
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
    gradient_counts: np.ndarray | None
    step_s: float
    communication_s: float
    reduce_s: float

    @property
    def compression_ratio(self) -> float:
        """Uncompressed over sent bytes between nodes, all ranks together; NaN where none are sent, or not known."""
        sent = float(self.table.sent_bytes.sum())
        return float(self.table.plain_bytes.sum()) / sent if sent else math.nan


@dataclass(frozen=True)
class Part:
    """One rank's part in a step: of the loss (nats per token; the parts add up), right predictions, tokens, and the
    squared norm of its own gradient."""

    loss: float
    right: int
    tokens: int
    own_square: float


class TrainingStep:
    """The state of training on one rank and the step that moves it on.

    All ranks construct it alike and call `run` together. A checkpoint keeps `progress` and what `strategy` holds.

    Attributes:
        judge: says before every update whether it must be left out.
        gauges, beats: give the newest look at this rank's machine; and how many signs of life it has given, how many
            looks it has taken, and the step of the newest checkpoint it knows of.
        hosts: name of each rank's node, for the judge.
        micro_batch: samples in one; may be made smaller between steps, on all ranks alike: the step's result stays
            the same but for rounding.
        detours: what of the sample stream is left out.
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
        judge: Judge | None = None,
    ) -> None:
        self.judge: Judge = judge or Calm()
        self.gauges: Callable[[], Sequence[float]] = lambda: UNKNOWN
        self.beats: Callable[[], tuple[float, float, float]] = lambda: (math.nan, 0.0, -1.0)
        self.hosts: Sequence[str] = ()
        self.micro_batch = settings.training.batch_size
        self.settings, self.source, self.rank, self.ranks, self.group = settings, source, rank, ranks, group
        self.global_batch = global_batch
        self.total_samples = settings.training.total_epochs * source.num_samples
        self.detours = Detours(self.total_samples)
        self.sampler = Sampler(source.num_samples, settings.training.seed)
        self.model = Transformer(settings)
        self.own_norm = OwnNorm(self.model)
        self.strategy = strategy(self.model, settings, group)
        self.layers = layers_of(self.strategy.layout)
        self.agreement, self.usage = Agreement(group), Usage()
        self.progress = Progress()
        if settings.hardware.compile:
            self.model.compile_blocks()
        self._last = (math.nan, math.nan, math.nan)

    @property
    def total_steps(self) -> int:
        """Steps the whole run has: those taken, and those the samples left will make, up to training.max_steps."""
        steps = self.progress.step + self.detours.steps_left(self.progress.samples, self.global_batch)
        return min(steps, self.settings.training.max_steps or steps)

    def run(self, stop: int = 0) -> StepOutcome:
        """Trains the next step. Collective. `stop`: the signal this rank was asked to stop with, or 0."""
        started = time.perf_counter()
        done = self.progress = replace(self.progress, samples=self.detours.behind(self.progress.samples))
        count = min(self.global_batch, self.total_samples - done.samples)
        tokens = count * self.settings.model.seq_length
        table, communication_s, reduce_s = self._gradient(done.samples, count, stop)
        norm = math.sqrt(table.square_norm.sum())
        rate = learning_rate(done.step, self.total_steps, self.settings.training) * done.factor
        skipped = self.judge.judge(self._look(table, norm, rate))
        logged = (done.step + 1) % self.settings.training.log_interval == 0
        variance = self._variance() if logged else None
        counts = self._over_ranks(layer_counts).numpy() if logged and self.settings.monitor.tensorboard else None
        if not skipped:
            clip = self.settings.training.clip_norm
            self.strategy.update(clip / norm if clip and norm > clip else 1.0, rate)
        self.progress = replace(done, step=done.step + 1, samples=done.samples + count, skipped=done.skipped + skipped)
        self._last = (time.perf_counter() - started, communication_s, reduce_s)
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
            counts,
            *self._last,
        )

    def last_times(self) -> Table:
        """The rows of all ranks with the times of the newest step, for the record of the last one. Collective."""
        row = self._row(0, Part(0.0, 0, 0, 0.0), 0.0, self.usage.sample())
        return self.agreement.gather(row)[0]

    def evaluate(self, beat: Callable[[], object] = lambda: None) -> HeldOut:
        """Held-out figures of the model as it is. Collective. `beat` is called after each batch."""
        training = self.settings.training
        samples = training.eval_samples
        return evaluate(self.model, self.source, samples, self.micro_batch, self.rank, self.ranks, beat)

    def micro_batches(self, position: int, count: int, rank: int | None = None) -> Iterator[np.ndarray]:
        """This rank's (or `rank`'s) share of `count` stream positions from `position`, by micro-batches."""
        share = rank_slice(count, self.rank if rank is None else rank, self.ranks)
        positions = np.arange(position + share.start, position + share.stop)
        for start in range(0, len(positions), self.micro_batch):
            yield positions[start : start + self.micro_batch]

    def _look(self, table: Table, norm: float, rate: float) -> Look:
        """What the judge is shown."""
        return Look(
            step=self.progress.step + 1,
            position=self.progress.samples,
            clock_s=float(table.clock_s[0]),
            loss=float(table.loss.sum()),
            gradient_norm=norm,
            learning_rate=rate,
            finite=table.finite,
            rank_loss=table.rank_loss,
            rank_gradient_norm=np.sqrt(table.own_square),
            rank_step_s=table.step_s,
            rank_communication_s=table.communication_s,
            gauges=table.gauges | {"checkpoint_step": table.saved},
            hosts=self.hosts,
        )

    def _gradient(self, position: int, count: int, stop: int) -> tuple[Table, float, float]:
        """The sum over ranks of the gradients of `count` samples from `position`, left in the strategy. Collective.

        Returns the rows of all ranks, and the seconds this rank was blocked, in all and by the gradients.
        """
        part = self._forward_backward(position, count, self.rank)
        blocked_s = self.strategy.reduce()
        row = self._row(stop, part, self.strategy.square_norm(), self.usage.sample())
        table, agreed_s = self.agreement.gather(row)
        return table, blocked_s + agreed_s, blocked_s

    def _row(self, stop: int, part: Part, square: float, usage: tuple[int, float]) -> Row:
        """A rank's words at a step of which it did `part`; `square`: its part of the gradient's squared norm."""
        sent = self.strategy.traffic
        return Row(
            math.isfinite(part.loss) and math.isfinite(square),
            stop,
            *(part.loss, square, part.right, part.tokens, sent.sent, sent.plain, part.own_square),
            time.monotonic(),
            *self._last,
            *self.beats(),
            *usage,
            self.gauges(),
        )

    def _forward_backward(self, position: int, count: int, rank: int) -> Part:
        """The part of `rank` in a step of `count` samples from `position`; gradients on their way."""
        seed, dropout = self.settings.training.seed, self.settings.model.dropout
        scale = 1.0 / (count * self.settings.model.seq_length)
        self.model.train()
        self.own_norm.begin(self.progress.step)
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
        tokens = sum(map(len, batches)) * self.settings.model.seq_length
        return Part(float(loss), int(right), tokens, self.own_norm.square)

    def _rounds(self, count: int) -> int:
        """Micro-batches of the rank that has the most, of a step of `count` samples."""
        most = rank_slice(count, 0, self.ranks)
        return -(-(most.stop - most.start) // self.micro_batch)

    def _variance(self) -> list[float]:
        """Variance of each layer's gradient elements. Collective."""
        places, sums = self.strategy.layout.places, self._over_ranks(layer_moments)
        sizes = [sum(places[number].shape.numel() for number in numbers) for numbers in self.layers.values()]
        return [square / size - (total / size) ** 2 for (total, square), size in zip(sums.tolist(), sizes, strict=True)]

    def _over_ranks(self, take: Callable[[Iterable[Iterable[torch.Tensor]]], torch.Tensor]) -> torch.Tensor:
        """What `take` makes of this rank's parts of the gradient, by layer, added up over all ranks. Collective."""
        sums = take(self.strategy.layer_parts(self.layers))
        if self.ranks > 1:
            dist.all_reduce(sums, group=self.group)
        return sums
