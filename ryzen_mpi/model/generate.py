"""Text from a trained model, one token after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from ryzen_mpi.model.transformer import Transformer


@torch.no_grad()
def generate(model: Transformer, prompt: Sequence[int], count: int, temperature: float, seed: int) -> Iterator[int]:
    """`count` tokens that follow `prompt` (at least one token). Local.

    The model sees at most as many tokens back as it was trained on: positions beyond hold no meaning.

    Args:
        temperature: 0 takes the likeliest token; 1 samples from the model's distribution.
    """
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    room = model.trained_length
    tokens = list(prompt)
    for _ in range(count):
        hidden = model.hidden(torch.tensor([tokens[-room:]]))[:, -1]
        logits = F.linear(hidden, model.head_weight).float()[0]
        if temperature == 0:
            token = int(logits.argmax())
        else:
            token = int(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator))
        tokens.append(token)
        yield token
