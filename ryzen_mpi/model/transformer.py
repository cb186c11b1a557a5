"""A causal, pre-norm transformer language model (Radford et al. 2019; Xiong et al. 2020 for the norm's place).

Learned positions, no biases, GELU, the head tied to the embedding unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ryzen_mpi.config import Settings
from ryzen_mpi.model.attention import causal_attention
from ryzen_mpi.model.dropout import SampleDropout
from ryzen_mpi.model.lean import gelu_linear, naive_gelu_linear, naive_norm_linear, norm_linear, takes_lean
from ryzen_mpi.model.lookup import Lookup
from ryzen_mpi.model.loss import head_loss

Keys = tuple[int, ...] | None


class Linear(nn.Linear):
    """Without a bias, and without first values, which `Transformer.first_values` has: memory is not touched twice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """Without first values, as `Linear`."""

    def reset_parameters(self) -> None:
        pass


class Norm(nn.Module):
    """Layer normalisation without a bias; a class of its own because `nn.LayerNorm` decomposes slower when compiled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight)


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and a residual connection."""

    def __init__(self, settings: Settings, index: int) -> None:
        super().__init__()
        shape = settings.model
        width = shape.embedding_dim
        self.heads, self.form = shape.num_heads, settings.hardware.attention
        self.norm_attention = Norm(width)
        self.qkv = Linear(width, 3 * width)
        self.project = Linear(width, width)
        self.norm_feed_forward = Norm(width)
        self.expand = Linear(width, shape.feed_forward_dim)
        self.contract = Linear(shape.feed_forward_dim, width)
        lean = takes_lean(width)
        self.norm_linear = norm_linear if lean else naive_norm_linear
        self.gelu_linear = gelu_linear if lean else naive_gelu_linear
        self.drop_attention = SampleDropout(shape.dropout, 2 * index + 1)
        self.drop_feed_forward = SampleDropout(shape.dropout, 2 * index + 2)

    def forward(self, x: Tensor, keys: Keys) -> Tensor:
        """[batch, length, width] -> the same shape."""
        qkv = self.norm_linear(x, self.norm_attention.weight, self.qkv.weight)
        x = x + self.drop_attention(self.project(causal_attention(qkv, self.heads, self.form)), keys)
        expanded = self.norm_linear(x, self.norm_feed_forward.weight, self.expand.weight)
        return x + self.drop_feed_forward(self.gelu_linear(expanded, self.contract.weight), keys)


class Transformer(nn.Module):
    """The language model of `settings.model`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        shape = settings.model
        self.token = Embedding(shape.vocab_size, shape.embedding_dim)
        self.position = Embedding(settings.max_positions, shape.embedding_dim)
        self.drop = SampleDropout(shape.dropout, 0)
        self.blocks = nn.ModuleList(Block(settings, index) for index in range(shape.num_layers))
        self.norm = Norm(shape.embedding_dim)
        self.head = None if shape.tied_head else Linear(shape.embedding_dim, shape.vocab_size)
        self.trained_length = shape.seq_length
        self.recompute = settings.hardware.gradient_checkpoint

    @property
    def head_weight(self) -> Tensor:
        """[vocabulary, width], the embedding's own where the head is tied."""
        return self.token.weight if self.head is None else self.head.weight

    def first_values(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """Name and first values (float32, own memory) of every parameter, one after the other: functions of `seed`.

        Source: Radford et al. 2019, section 2.3.
        """
        generator = torch.Generator().manual_seed(seed)
        residual = (2 * len(self.blocks)) ** -0.5
        for name, parameter in self.named_parameters():
            values = torch.empty(parameter.shape)
            if parameter.ndim < 2:
                yield name, values.fill_(1.0)
            else:
                std = 0.02 * (residual if name.endswith(("project.weight", "contract.weight")) else 1.0)
                yield name, values.normal_(std=std, generator=generator)

    def initialise(self, seed: int) -> None:
        """Gives all parameters their first values."""
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, values in self.first_values(seed):
                parameters[name].copy_(values)

    def compile_blocks(self) -> None:
        """Has every block compiled at its first use; block by block, because blocks share one compilation."""
        for block in self.blocks:
            block.compile(dynamic=False)

    def hidden(self, tokens: Tensor, keys: Keys = None, lookup: Lookup | None = None) -> Tensor:
        """Last hidden states [batch, length, width] of `tokens` [batch, length], by a new `lookup`."""
        x = (lookup or Lookup())(self.token.weight, tokens) + self.position.weight[: tokens.shape[1]]
        x = self.drop(x, keys)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                # masks belong to samples, so there is no random state to keep
                x = checkpoint(block, x, keys, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, keys)
        return self.norm(x)

    def forward(self, tokens: Tensor, targets: Tensor, scale: float, keys: Keys = None) -> tuple[Tensor, Tensor]:
        """The scaled loss and the right predictions of one micro-batch; see `loss.head_loss`.

        Args:
            tokens, targets: [batch, length].
            scale: factor of the summed loss, 1 / (tokens of the global batch).
            keys: one integer a sample, from which its dropout masks are drawn.
        """
        lookup = Lookup()
        hidden = self.hidden(tokens, keys, lookup).flatten(0, 1)
        return head_loss(hidden, self.head_weight, targets.flatten(), scale, lookup if self.head is None else None)


def parameter_count(settings: Settings) -> int:
    """Trainable parameters of the model, by arithmetic.

    A model on PyTorch's meta device would say the same, after importing its compiler: seconds for each rank's start.
    """
    shape = settings.model
    width = shape.embedding_dim
    embeddings = (shape.vocab_size * (1 if shape.tied_head else 2) + settings.max_positions) * width
    block = 2 * width + 4 * width * width + 2 * width * shape.feed_forward_dim
    return embeddings + shape.num_layers * block + width
