"""Linear layers that keep their function's input: the figures of those that keep everything, and less in memory."""

from __future__ import annotations

import pytest
import torch

from ryzen_mpi.model.lean import gelu_linear, naive_gelu_linear, naive_norm_linear, norm_linear

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, WIDTH, OUTPUTS = (3, 7), 16, 24
PAIRS = {"norm": (norm_linear, naive_norm_linear), "gelu": (gelu_linear, naive_gelu_linear)}


def made(name: str, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = [(*ROWS, WIDTH), (WIDTH,), (OUTPUTS, WIDTH)]
    if name == "gelu":
        del shapes[1]
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]


def with_gradients(act, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    inputs = [one.clone().requires_grad_() for one in inputs]
    out = act(*inputs)
    out.sin().sum().backward()
    return [out.detach(), *(one.grad for one in inputs)]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_they_agree_with_those_that_keep_everything(name, dtype):
    lean, naive = PAIRS[name]
    inputs = made(name, dtype)
    torch.testing.assert_close(with_gradients(lean, inputs), with_gradients(naive, inputs))


@pytest.mark.parametrize("name", PAIRS)
def test_the_gradient_is_the_derivative(name):
    inputs = [one.requires_grad_() for one in made(name)]
    assert torch.autograd.gradcheck(PAIRS[name][0], inputs)


@pytest.mark.parametrize("name", PAIRS)
def test_only_what_is_trained_gets_a_gradient(name):
    for trained in range(len(made(name))):
        inputs = made(name)
        inputs[trained].requires_grad_()
        PAIRS[name][0](*inputs).sin().sum().backward()
        expected = with_gradients(PAIRS[name][1], made(name))[1 + trained]
        torch.testing.assert_close(inputs[trained].grad, expected)
        assert [one.grad is None for one in inputs].count(False) == 1


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_is_kept_but_what_came_in(name):
    inputs = [one.requires_grad_() for one in made(name)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        PAIRS[name][0](*inputs)
    assert set(kept) <= {one.data_ptr() for one in inputs}
