"""The same model as a plain PyTorch script has it: nn.TransformerEncoder, DistributedDataParallel, autocast.

Everything a careful user of PyTorch would do is done: fused optimiser, gradients as bucket views, no needless zeroing.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ryzen_mpi.config import Settings


class PlainModel(nn.Module):
    """Pre-norm, GELU, learned positions, tied head, no biases: parameter for parameter our model."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        shape = settings.model
        self.token = nn.Embedding(shape.vocab_size, shape.embedding_dim)
        self.position = nn.Embedding(settings.max_positions, shape.embedding_dim)
        layer = nn.TransformerEncoderLayer(
            shape.embedding_dim,
            shape.num_heads,
            shape.feed_forward_dim,
            shape.dropout,
            "gelu",
            batch_first=True,
            norm_first=True,
            bias=False,
        )
        norm = nn.LayerNorm(shape.embedding_dim, bias=False)
        self.encoder = nn.TransformerEncoder(layer, shape.num_layers, norm, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(shape.seq_length))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        hidden = self.encoder(x, mask=self.mask, is_causal=True)
        logits = F.linear(hidden, self.token.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class PlainStep:
    """One training step of the plain script. Collective: all ranks construct it and call `run` together."""

    def __init__(self, settings: Settings, source) -> None:
        torch.manual_seed(settings.training.seed)
        self.settings, self.source = settings, source
        self.model = DistributedDataParallel(PlainModel(settings), gradient_as_bucket_view=True)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=settings.training.learning_rate,
            betas=(settings.training.beta1, settings.training.beta2),
            fused=True,
        )
        self.autocast = settings.hardware.dtype == "bfloat16"
        self.number = 0
        self.rank = torch.distributed.get_rank()

    def run(self) -> tuple[float, float]:
        """Trains a step; returns (loss of this rank, seconds)."""
        began = time.perf_counter()
        size = self.settings.training.batch_size
        first = (self.number * torch.distributed.get_world_size() + self.rank) * size
        indices = [(first + i) % self.source.num_samples for i in range(size)]
        batch = torch.from_numpy(self.source.sample(indices))
        self.number += 1
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.model(batch[:, :-1], batch[:, 1:])
        loss.backward()
        clip = self.settings.training.clip_norm
        if clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return float(loss.detach()), time.perf_counter() - began
