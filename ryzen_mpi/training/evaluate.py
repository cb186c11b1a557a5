"""How well the model predicts text it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ryzen_mpi.data.sampler import rank_slice
from ryzen_mpi.data.source import TokenSource
from ryzen_mpi.model.loss import head_score
from ryzen_mpi.model.transformer import Transformer


@dataclass(frozen=True)
class HeldOut:
    """Figures over `tokens` held-out tokens: loss in nats per token, accuracy as a share."""

    loss: float
    accuracy: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf


def evaluate(
    model: Transformer,
    source: TokenSource,
    samples: int,
    batch_size: int,
    rank: int,
    ranks: int,
    beat: Callable[[], object] = lambda: None,
) -> HeldOut:
    """Loss and accuracy on the first `samples` held-out samples (fewer where there are fewer). Collective.

    The figures are sums over tokens in float64, so they hardly depend on how many ranks share the work.
    `beat` is called after each batch.
    """
    sums = held_out_sums(model, source, samples, batch_size, rank, ranks, beat)
    if ranks > 1:
        dist.all_reduce(sums)
    return of_sums(sums)


@torch.no_grad()
def held_out_sums(
    model: Transformer,
    source: TokenSource,
    samples: int,
    batch_size: int,
    rank: int,
    ranks: int,
    beat: Callable[[], object],
) -> Tensor:
    """[3] loss, right predictions and tokens of the share of `rank` in what `evaluate` looks at. Local."""
    count = min(samples, source.num_held_out)
    share = rank_slice(count, rank, ranks)
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(share.start, share.stop, batch_size):
        indices = range(start, min(start + batch_size, share.stop))
        batch = torch.from_numpy(source.held_out(indices))
        hidden = model.hidden(batch[:, :-1])
        loss, right = head_score(hidden.flatten(0, 1), model.head_weight, batch[:, 1:].flatten())
        sums += torch.tensor([float(loss), float(right), batch[:, 1:].numel()], dtype=torch.float64)
        beat()
    return sums


def of_sums(sums: Tensor) -> HeldOut:
    """The figures of `held_out_sums` summed over all ranks."""
    return HeldOut(float(sums[0] / sums[2]), float(sums[1] / sums[2]), int(sums[2]))
