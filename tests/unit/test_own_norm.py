"""The norm of a rank's own gradient, from a sample of its parts."""

import math

import pytest
import torch

from ryzen_mpi.training.own_norm import LEAST, OwnNorm


def delivered(model: torch.nn.Module, own: OwnNorm, step: int = 0) -> float:
    own.begin(step)
    model(torch.randn(64, model.in_features, generator=torch.Generator().manual_seed(step))).square().sum().backward()
    return own.square


def squares(model: torch.nn.Module) -> float:
    return sum(float(parameter.grad.double().square().sum()) for parameter in model.parameters())


def test_of_a_small_model_it_is_the_norm():
    torch.manual_seed(1)
    model = torch.nn.Linear(16, LEAST // 16)
    own = OwnNorm(model)
    assert delivered(model, own) == pytest.approx(squares(model), rel=1e-5)


def test_of_a_large_model_it_is_near_and_every_part_has_its_turn():
    torch.manual_seed(1)
    model = torch.nn.Linear(2048, 2048)  # 16 MiB of gradient, of which an eighth is looked at in a step
    own = OwnNorm(model)
    near = delivered(model, own)
    assert near == pytest.approx(squares(model), rel=0.2)
    bad, found = 7, []
    model.weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([bad]), math.nan))
    for step in range(16):
        model.zero_grad()
        found.append(math.isnan(delivered(model, own, step)))
    assert any(found) and not all(found)


def test_several_micro_batches_add_up_and_a_new_step_begins_from_nothing():
    torch.manual_seed(1)
    model = torch.nn.Linear(8, 8)
    own = OwnNorm(model)
    first = delivered(model, own)
    assert delivered(model, own) != first or own.square < 10 * first
    own.begin(1)
    assert own.square == 0.0


def test_removed_it_looks_no_more():
    model = torch.nn.Linear(8, 8)
    own = OwnNorm(model)
    own.remove()
    assert delivered(model, own) == 0.0
