"""The embedding's gradient: PyTorch's own, alone and together with a tied head's, and never a second whole one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ryzen_mpi.model.lookup import Lookup, add_rows
from ryzen_mpi.model.loss import head_loss, naive_head_loss

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY, WIDTH = 30, 8


def made():
    generator = torch.Generator().manual_seed(11)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    tokens = torch.randint(VOCABULARY // 3, (4, 9), generator=generator)  # many of them several times
    targets = torch.randint(VOCABULARY, (4, 9), generator=generator)
    return weight, tokens, targets


def gradient(weight: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    weight.grad = None
    loss.backward()
    return weight.grad.clone()


def test_alone_it_is_the_embedding():
    weight, tokens, _ = made()
    found, expected = Lookup()(weight, tokens), F.embedding(tokens, weight)
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradient(weight, found.sin().sum()), gradient(weight, expected.sin().sum()))


@pytest.mark.parametrize("upstream", [1.0, -2.0])
def test_with_a_tied_head_both_gradients_are_there(upstream):
    weight, tokens, targets = made()
    lookup = Lookup()
    hidden = lookup(weight, tokens).sin().flatten(0, 1)
    loss, _ = head_loss(hidden, weight, targets.flatten(), 0.1, lookup)
    found = gradient(weight, upstream * loss)
    assert lookup.head_gradient is None, "it would be there a second time"
    book, _ = naive_head_loss(F.embedding(tokens, weight).sin().flatten(0, 1), weight, targets.flatten(), 0.1)
    torch.testing.assert_close(found, gradient(weight, upstream * book), rtol=1e-12, atol=1e-14)


def test_a_frequent_tokens_small_gradients_are_not_rounded_away():
    target = torch.ones(2, 3, dtype=torch.bfloat16)
    add_rows(target, torch.zeros(512, dtype=torch.int64), torch.full((512, 3), 2.0**-9, dtype=torch.bfloat16))
    assert target.tolist() == [[2.0] * 3, [1.0] * 3]  # one by one, each would be rounded away


def test_a_frozen_embedding_gets_none():
    weight, tokens, targets = made()
    weight.requires_grad_(False)
    factor = torch.ones(WIDTH, dtype=torch.float64, requires_grad=True)
    lookup = Lookup()
    hidden = (lookup(weight, tokens) * factor).flatten(0, 1)
    head_loss(hidden, weight, targets.flatten(), 0.1, lookup)[0].backward()
    assert weight.grad is None and lookup.head_gradient is None and factor.grad.abs().sum() > 0
