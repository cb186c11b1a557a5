"""Steps of 4096 samples: what every rank trained, counted from the indices it asked its source for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ryzen_mpi.data.source import TokenSource
from ryzen_mpi.validation.registry import Context
from ryzen_mpi.validation.synchronisation import Inspection, Seen
from ryzen_mpi.validation.training import connected, without_text

EFFECTIVE, MICRO = 4096, 64
WORDS = (
    *("model.vocab_size=64", "model.embedding_dim=32", "model.num_heads=2", "model.num_layers=1"),
    *("model.feed_forward_dim=64", "model.seq_length=8"),
    *(f"training.batch_size={MICRO}", f"training.global_batch={EFFECTIVE}"),
)


@dataclass
class Counts:
    """Samples of all ranks and steps.

    Attributes:
        trained, missing, twice: how many; due and not trained; trained again, or not due.
        by_rank: trained by each.
        problems: sentences, the first samples named.
    """

    trained: int
    missing: int
    twice: int
    by_rank: list[int]
    problems: list[str]


class Recording:
    """A source that remembers which samples it was asked for."""

    def __init__(self, source: TokenSource) -> None:
        self._source, self.asked = source, []

    def __getattr__(self, name: str):
        return getattr(self._source, name)

    def sample(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        self.asked += np.asarray(indices).tolist()
        return self._source.sample(indices)


def measure(context: Context, steps: int) -> tuple[Seen, Counts]:
    """`steps` steps of EFFECTIVE samples, inspected; the counts of all ranks. Collective. Raises UserError."""
    with connected(context, WORDS) as (world, settings):
        source = Recording(without_text(settings))
        inspection = Inspection(world, settings, source)
        seen = inspection.run(steps)
        due = inspection.step.sampler.indices(0, inspection.step.progress.samples).tolist()
        return seen, count(world.exchange.allgather(source.asked), due)


def count(by_rank: Sequence[Sequence[int]], due: Sequence[int]) -> Counts:
    """What of `due`, stream positions' samples, the ranks trained. Pure."""
    trained = Counter(index for indices in by_rank for index in indices)
    wanted = Counter(due)
    missing, extra = wanted - trained, trained - wanted
    problems = []
    if missing:
        problems.append(f"{missing.total()} samples were not trained: {sorted(missing)[:5]}")
    if extra:
        holders = {index: [rank for rank, mine in enumerate(by_rank) if index in mine] for index in sorted(extra)[:5]}
        problems.append(f"{extra.total()} samples were trained again, or not due: {holders} (sample: ranks)")
    return Counts(trained.total(), missing.total(), extra.total(), [len(mine) for mine in by_rank], problems)
