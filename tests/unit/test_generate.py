"""Generated text: the seed decides it, temperature 0 takes the likeliest, and prompts may be long."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_transformer import built

from ryzen_mpi.model.generate import generate


@pytest.fixture
def model():
    return built("model.dropout=0.5")


def test_a_seed_gives_one_text_and_another_seed_another(model):
    texts = [list(generate(model, [1, 2], 30, 1.0, seed)) for seed in (4, 4, 5)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 30 and all(0 <= token < 300 for token in texts[0])


def test_temperature_zero_takes_the_likeliest_whatever_the_seed(model):
    texts = [list(generate(model, [7], 5, 0, seed)) for seed in (1, 2)]
    tokens = [7]
    model.eval()
    for _ in range(5):
        hidden = model.hidden(torch.tensor([tokens]))
        tokens.append(int(F.linear(hidden[0, -1], model.head_weight).argmax()))
    assert texts == [tokens[1:]] * 2


def test_a_prompt_longer_than_the_positions_is_seen_from_its_end(model):
    prompt = list(range(50))
    assert list(generate(model, prompt, 12, 1.0, 3)) == list(generate(model, prompt[-10:], 12, 1.0, 3))


def test_samples_follow_the_models_distribution(model):
    with torch.no_grad():
        model.eval()
        model.token.weight.mul_(40)
        chances = torch.softmax(F.linear(model.hidden(torch.tensor([[5]]))[0, -1], model.head_weight) / 2.0, 0)
    drawn = torch.tensor([next(generate(model, [5], 1, 2.0, seed)) for seed in range(300)])
    favourite = int(chances.argmax())
    share, chance = (drawn == favourite).double().mean(), chances[favourite]
    assert 0.02 < chance < 0.98
    assert abs(share - chance) < 5 * (chance * (1 - chance) / 300) ** 0.5


def test_generating_leaves_no_gradient(model):
    list(generate(model, [1], 2, 1.0, 0))
    assert all(p.grad is None for p in model.parameters())
