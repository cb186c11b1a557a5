"""What a side does in a step. A peer is a model, an optimiser and the few lines where it differs from the others."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ryzen_mpi.config import Settings
from ryzen_mpi.data.source import TokenSource


class Side(Protocol):
    """All ranks make it alike and call its methods together.

    Attributes:
        parameters: of the model.
    """

    parameters: int

    def run(self) -> float:
        """Trains a step; the loss of this rank or of all. Collective."""

    def fill(self) -> None:
        """Brings gradients about for `update`. Collective."""

    def update(self) -> None:
        """The optimiser step alone, or the least that holds it. Collective."""

    def clear(self) -> None:
        """Drops what `fill` brought about. Local."""


class PeerStep:
    """The loop as every tutorial has it; sides override what their library has its own way for.

    Args:
        model: as the library wrapped it, called with tokens and targets.
        optimizer: likewise.
        parameters: of the model before it was wrapped, which may have cut them up.
    """

    def __init__(
        self,
        settings: Settings,
        source: TokenSource,
        rank: int,
        ranks: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parameters: int,
    ) -> None:
        self.settings, self.source, self.rank, self.ranks = settings, source, rank, ranks
        self.model, self.optimizer, self.parameters = model, optimizer, parameters
        self.number = 0

    def run(self) -> float:
        loss = self.fill()
        if self.settings.training.clip_norm:
            self.clip(self.settings.training.clip_norm)
        self.update()
        self.clear()
        return loss

    def fill(self) -> float:
        loss = self.forward(*self.batch())
        self.backward(loss)
        return float(loss.detach())

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next tokens and targets of this rank, both [batch, length]."""
        size = self.settings.training.batch_size
        first = (self.number * self.ranks + self.rank) * size
        self.number += 1
        samples = torch.from_numpy(self.source.sample([(first + i) % self.source.num_samples for i in range(size)]))
        return samples[:, :-1], samples[:, 1:]

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model(tokens, targets)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, most: float) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), most)

    def update(self) -> None:
        self.optimizer.step()

    def clear(self) -> None:
        self.optimizer.zero_grad()


def count(model: nn.Module) -> int:
    """Parameters of `model`, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def optimizer_arguments(settings: Settings) -> tuple[type[torch.optim.Optimizer], dict]:
    """PyTorch's class for `training.optimizer` and its arguments, fused."""
    training = settings.training
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind, {
        "lr": training.learning_rate,
        "betas": (training.beta1, training.beta2),
        "weight_decay": training.weight_decay,
        "fused": True,
    }


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser over all parameters of `model`."""
    kind, arguments = optimizer_arguments(settings)
    return kind(model.parameters(), **arguments)
