"""Adam and AdamW over the flat vectors, in PyTorch's fused kernel, with moments that are flat vectors too."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ryzen_mpi.config import Training


class Updatable(Protocol):
    """Flat vectors to update.

    Attributes:
        master, gradient: [size].
        decayed: length of the front part that weight decay applies to.
    """

    master: Tensor
    gradient: Tensor
    decayed: int


class FlatOptimizer:
    """Updates `flat.master` from `flat.gradient`; weight decay on matrices alone.

    Args:
        moments: zeroed memory for the moments; own where absent.

    Attributes:
        first, second: [size] running means of the gradient and of its square (Kingma & Ba 2015, algorithm 1).
    """

    def __init__(self, flat: Updatable, settings: Training, moments: tuple[Tensor, Tensor] | None = None) -> None:
        self.first, self.second = moments or (torch.zeros_like(flat.master), torch.zeros_like(flat.master))
        self._counts: list[torch.Tensor] = []
        groups, states = [], {}
        for part, decay in ((slice(0, flat.decayed), settings.weight_decay), (slice(flat.decayed, None), 0.0)):
            weights = torch.nn.Parameter(flat.master[part])
            weights.grad = flat.gradient[part]
            if weights.numel():
                count = torch.zeros((), dtype=torch.float32)
                self._counts.append(count)
                groups.append({"params": [weights], "weight_decay": decay})
                states[weights] = {"step": count, "exp_avg": self.first[part], "exp_avg_sq": self.second[part]}
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        self._inner = kind(groups, betas=(settings.beta1, settings.beta2), fused=True)
        self._inner.state.update(states)  # before the first step, so that PyTorch allocates none of its own

    def step(self, learning_rate: float) -> None:
        """One update. Local."""
        for group in self._inner.param_groups:
            group["lr"] = learning_rate
        self._inner.step()

    @property
    def updates(self) -> int:
        """Updates made, which the bias correction depends on."""
        return int(self._counts[0])

    @updates.setter
    def updates(self, count: int) -> None:
        for tensor in self._counts:
            tensor.fill_(count)
