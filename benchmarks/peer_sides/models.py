"""The peers' models: parameter for parameter ours, written as people write them.

Both are pre-norm with GELU, learned positions, a tied head and no biases. A peer gets the faster one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ryzen_mpi.config import Model, Settings


class Language(nn.Module):
    """What both have in common: embeddings in front, the loss behind; `encode` lies between."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        shape = settings.model
        self.token = nn.Embedding(shape.vocab_size, shape.embedding_dim)
        self.position = nn.Embedding(settings.max_positions, shape.embedding_dim)
        for embedding in (self.token, self.position):  # nn.Embedding's own N(0, 1) starts a tied head far off ln V
            nn.init.normal_(embedding.weight, std=0.02)

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, for those who shard layer by layer."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """[batch, length, width] -> the last hidden states, of the same shape."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of `targets` after `tokens`, both [batch, length]."""
        hidden = self.encode(self.token(tokens) + self.position.weight[: tokens.shape[1]])
        logits = F.linear(hidden, self.token.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class PlainModel(Language):
    """With nn.TransformerEncoder."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        shape = settings.model
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

    @property
    def blocks(self) -> nn.ModuleList:
        return self.encoder.layers

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x, mask=self.mask, is_causal=True)


class Block(nn.Module):
    """Attention and feed-forward by hand, each behind a norm and a residual connection."""

    def __init__(self, shape: Model) -> None:
        super().__init__()
        width, self.heads, self.dropout = shape.embedding_dim, shape.num_heads, shape.dropout
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.norm_feed_forward = nn.LayerNorm(width, bias=False)
        self.expand = nn.Linear(width, shape.feed_forward_dim, bias=False)
        self.contract = nn.Linear(shape.feed_forward_dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        attended = F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4), is_causal=True)
        attended = self.project(attended.transpose(1, 2).reshape(batch, length, width))
        x = x + F.dropout(attended, self.dropout, self.training)
        fed = self.contract(F.gelu(self.expand(self.norm_feed_forward(x))))
        return x + F.dropout(fed, self.dropout, self.training)


class HandwrittenModel(Language):
    """With PyTorch's fused attention, and one matrix for queries, keys and values."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.layers = nn.ModuleList(Block(settings.model) for _ in range(settings.model.num_layers))
        self.norm = nn.LayerNorm(settings.model.embedding_dim, bias=False)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    def encode(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x)
        return self.norm(x)


MODELS: dict[str, type[Language]] = {"plain": PlainModel, "handwritten": HandwrittenModel}


def build(kind: str, settings: Settings) -> Language:
    """The model named `kind`, from the same seed on every rank. Local."""
    torch.manual_seed(settings.training.seed)
    return MODELS[kind](settings)
