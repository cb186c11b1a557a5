"""The head's loss: by the book whatever the chunks, and never all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ryzen_mpi.model import loss
from ryzen_mpi.model.loss import head_loss, head_score, naive_head_loss

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, WIDTH, VOCABULARY = 37, 16, 50


def made(dtype=torch.float64, rows=ROWS, width=WIDTH, vocabulary=VOCABULARY):
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(rows, width, dtype=torch.float64, generator=generator).to(dtype)
    weight = torch.randn(vocabulary, width, dtype=torch.float64, generator=generator).to(dtype)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    return hidden, weight, targets


def with_gradients(act, hidden, weight, targets, upstream=1.0):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    value, right = act(hidden, weight, targets, 1 / 30)
    (value * upstream).backward()
    return value.detach(), right, hidden.grad, weight.grad


@pytest.mark.parametrize("upstream", [1.0, -2.5])
@pytest.mark.parametrize("tile", [1, 7 * VOCABULARY, 1 << 18])
@pytest.mark.parametrize("rows", [1, 10, ROWS - 1, ROWS, 1000])
def test_any_chunk_and_tile_agree_with_the_book(monkeypatch, rows, tile, upstream):
    monkeypatch.setattr(loss, "chunk_rows", lambda vocabulary, width: rows)
    monkeypatch.setattr(loss, "TILE_ELEMENTS", tile)
    found = with_gradients(head_loss, *made(), upstream)
    expected = with_gradients(naive_head_loss, *made(), upstream)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("rows", [5, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_narrow_precisions_agree_within_their_rounding(monkeypatch, rows, dtype, tolerance):
    monkeypatch.setattr(loss, "chunk_rows", lambda vocabulary, width: rows)
    hidden, weight, targets = made(dtype)
    found = with_gradients(head_loss, hidden, weight, targets)
    expected = with_gradients(naive_head_loss, hidden.double(), weight.double(), targets)
    assert found[0].dtype == torch.float32 and found[2].dtype == found[3].dtype == dtype
    for mine, right in zip((found[0], *found[2:]), (expected[0], *expected[2:]), strict=True):
        assert (mine.double() - right).norm() <= tolerance * right.norm()


def test_the_gradient_is_the_derivative():
    hidden, weight, targets = made(rows=5, width=3, vocabulary=4)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: head_loss(h, w, targets, 0.3)[0], (hidden, weight))


def test_large_logits_stay_finite():
    hidden, weight, targets = made(torch.float32)
    value, _, d_hidden, d_weight = with_gradients(head_loss, 1e4 * hidden, weight, targets)
    assert value.isfinite() and d_hidden.isfinite().all() and d_weight.isfinite().all()


def test_every_row_counts_and_a_tie_counts_as_right():
    hidden, weight = torch.eye(3), torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    _, right = head_loss(hidden, weight, torch.tensor([1, 0, 0]), 1.0)
    assert right.item() == 2  # a tie, all equal, and wrong


def test_without_gradients_none_are_formed():
    hidden, weight, targets = made()
    weight.requires_grad_()
    with torch.no_grad():
        assert not head_loss(hidden, weight, targets, 1.0)[0].requires_grad


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(item, torch.Tensor):
                self.nbytes = max(self.nbytes, item.untyped_storage().nbytes())
        return out


def test_the_production_vocabulary_never_holds_all_logits():
    rows, vocabulary = 4096, 65536
    hidden, weight, targets = made(torch.bfloat16, rows, 8, vocabulary)
    hidden.requires_grad_(), weight.requires_grad_()
    with Largest() as seen:
        head_loss(hidden, weight, targets, 1 / rows)[0].backward()
    assert 0 < seen.nbytes <= 32 << 20  # all logits are 512 MiB in bfloat16, a chunk of them 8


@pytest.mark.parametrize("chunk", [1, 11 * VOCABULARY, 1 << 22])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_score_is_the_books_whatever_the_chunks(monkeypatch, chunk, dtype):
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", chunk)
    hidden, weight, targets = made(dtype)
    total, right = head_score(hidden, weight, targets)
    logits = hidden.double() @ weight.double().T
    expected = -logits.log_softmax(1)[torch.arange(ROWS), targets].sum()
    assert total.dtype == torch.float64
    torch.testing.assert_close(total, expected, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=0)
    assert right == (logits.argmax(1) == targets).sum()
