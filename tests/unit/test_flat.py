"""Flat vectors: the model's tensors are views of them, whole, aligned and apart."""

from __future__ import annotations

import pytest
import torch
from test_transformer import tiny

from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.flat import ALIGNMENT, FlatParameters

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])


def made(dtype: torch.dtype) -> tuple[Transformer, dict[str, torch.Tensor], FlatParameters]:
    model = Transformer(tiny("model.tied_head=false"))
    model.initialise(1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flat = FlatParameters(model, dtype)
    for name, values in before.items():
        flat.put(name, 0, values)
    flat.publish()
    return model, before, flat


@DTYPES
def test_weights_survive_the_move_in_the_precisions_promised(dtype):
    model, before, flat = made(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    assert (flat.master.dtype, flat.gradient.dtype, flat.working.dtype) == (wide, wide, dtype)
    assert set(before) == {place.name for place in flat.places}
    for name, p in model.named_parameters():
        assert torch.equal(flat.named(flat.master)[name], before[name].to(wide))
        assert torch.equal(p.data, before[name].to(dtype))


@DTYPES
def test_the_model_computes_with_what_is_published(dtype):
    model, _, flat = made(dtype)
    flat.master.fill_(1 / 3)
    flat.publish()
    assert all((p.data == torch.tensor(1 / 3).to(dtype)).all() or dtype == torch.float64 for p in model.parameters())
    for p in model.parameters():
        start = p.data_ptr() - flat.working.data_ptr()
        assert 0 <= start < flat.working.nbytes


def test_places_are_aligned_apart_and_those_that_decay_come_first():
    _, _, flat = made(torch.float32)
    ends = [0]
    for place in flat.places:
        assert place.offset % ALIGNMENT == 0 and place.offset >= ends[-1]
        assert (len(place.shape) >= 2) == (place.offset < flat.decayed)
        ends.append(place.end)
    assert ends[-1] <= len(flat.master) < ends[-1] + ALIGNMENT


def test_places_follow_backward_order():
    _, _, flat = made(torch.float32)
    matrices = [place.name for place in flat.places if len(place.shape) >= 2]
    assert matrices[0] == "head.weight" and matrices[-1] == "token.weight"
    assert matrices.index("blocks.1.qkv.weight") < matrices.index("blocks.0.contract.weight")
