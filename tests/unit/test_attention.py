"""Attention: the fast forms give what the book gives, values and gradients."""

from __future__ import annotations

import pytest
import torch

from ryzen_mpi.model import attention
from ryzen_mpi.model.attention import BATCHED_UP_TO, causal_attention, naive_causal_attention, takes_batched

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(1, 1, 8, 1), (2, 5, 12, 3), (3, 17, 32, 4)]  # batch, length, width, heads
FORMS = pytest.mark.parametrize("form", ["batched", "fused"])


def made(batch: int, length: int, width: int, dtype=torch.float64, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return (spread * torch.randn(batch, length, 3 * width, dtype=torch.float64, generator=generator)).to(dtype)


def value_and_gradient(act, qkv: torch.Tensor):
    qkv = qkv.clone().requires_grad_()
    out = act(qkv)
    weight = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    out.backward(weight)
    return out.detach(), qkv.grad


@FORMS
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_agrees_with_the_book(form, shape):
    *dims, heads = shape
    qkv = made(*dims)
    expected = value_and_gradient(lambda x: naive_causal_attention(x, heads), qkv)
    found = value_and_gradient(lambda x: causal_attention(x, heads, form), qkv)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kept_up_to", [0, 512])
@pytest.mark.parametrize("block", [1, 4, 16, 17])
def test_any_block_agrees_with_the_book_whether_its_softmax_is_kept_or_formed_again(monkeypatch, block, kept_up_to):
    monkeypatch.setattr(attention, "BLOCK", block)
    monkeypatch.setattr(attention, "KEPT_UP_TO", kept_up_to)
    qkv = made(3, 17, 32)
    expected = value_and_gradient(lambda x: naive_causal_attention(x, 4), qkv)
    found = value_and_gradient(lambda x: causal_attention(x, 4, "batched"), qkv)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("length", [1, 100, 128, 129, 512, 513])
def test_what_is_kept_is_what_the_memory_plan_reckons_with(length):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        causal_attention(made(1, length, 2).requires_grad_(), 2, "batched")
    scores = [t.numel() for t in kept if t.shape[-1] != 1]  # q, k and v have heads of one
    if length == 1:
        assert attention.kept_scores(1) == 1
    else:
        assert sum(scores) == 2 * attention.kept_scores(length)


def test_the_batched_gradient_is_the_derivative():
    qkv = made(2, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: causal_attention(x, 3, "batched"), qkv)


@FORMS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 4e-2)])
def test_narrow_precisions_agree_within_their_rounding(form, dtype, tolerance):
    qkv = made(2, 64, 32, dtype)
    expected = value_and_gradient(lambda x: naive_causal_attention(x, 4), qkv.double())
    found = value_and_gradient(lambda x: causal_attention(x, 4, form), qkv)
    for mine, right in zip(found, expected, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - right).norm() <= tolerance * right.norm()


@FORMS
def test_large_scores_stay_finite(form):
    out, gradient = value_and_gradient(lambda x: causal_attention(x, 2, form), made(1, 16, 16, torch.float32, 300.0))
    assert out.isfinite().all() and gradient.isfinite().all()


@FORMS
def test_no_token_sees_what_comes_after_it(form):
    qkv = made(1, 9, 8)
    changed = qkv.clone()
    changed[:, 6:] += 5
    before, after = (causal_attention(x, 2, form) for x in (qkv, changed))
    assert torch.equal(before[:, :6], after[:, :6]) and not torch.equal(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("dtype", BATCHED_UP_TO)
def test_auto_takes_the_batched_form_up_to_the_measured_length(dtype):
    longest = BATCHED_UP_TO[dtype]
    assert not takes_batched(longest + 1, dtype)
    assert takes_batched(longest, dtype)
    assert takes_batched(longest + 1, dtype, "batched") and not takes_batched(longest, dtype, "fused")
