"""Memory: reckoned before it is allocated, and refused with the numbers."""

from __future__ import annotations

import pytest
import torch

from ryzen_mpi.errors import UserError
from ryzen_mpi.model.transformer import Transformer, parameter_count
from ryzen_mpi.settings import load_settings
from ryzen_mpi.training.flat import FlatParameters
from ryzen_mpi.training.memory import check_fits, need
from ryzen_mpi.units import bytes_text


def test_the_total_is_the_sum_of_the_rows():
    reckoned = need(load_settings("default", environment={}))
    assert reckoned.total == sum(vars(reckoned).values()) and len(reckoned.rows()) == len(vars(reckoned))


def test_a_node_that_has_just_enough_is_taken_and_a_byte_less_is_refused():
    settings = load_settings("default", environment={})
    ranks = [0, 1, 2]
    total = sum(need(settings, rank).total for rank in ranks)
    assert check_fits(settings, ranks, total, "told") == need(settings, 0)
    with pytest.raises(UserError):
        check_fits(settings, ranks, total - 1, "told")


def test_a_refusal_names_need_parts_ranks_what_is_there_and_ways_out():
    settings = load_settings("production_4process", environment={})
    with pytest.raises(UserError) as caught:
        check_fits(settings, [4, 5], 64 << 30, "cgroup limit /x")
    one = need(settings, 4)
    message = caught.value.message
    for part in (bytes_text(one.total), bytes_text(2 * one.total), "2 ranks", "64.0 GiB", "cgroup limit /x"):
        assert part in message
    assert all(f"{name} {size}" in message for name, size in one.rows())
    assert "gradient_checkpoint=true" in caught.value.hint


def test_rank_0_alone_needs_room_for_the_copy_being_saved():
    settings = load_settings("default", environment={})
    assert need(settings, 0).total - need(settings, 1).total == need(settings, 0).checkpoint_copy > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_and_gradients_are_what_the_flat_vectors_hold(dtype):
    settings = load_settings("default", [f"hardware.dtype={dtype}"], {})
    flat = FlatParameters(Transformer(settings), getattr(torch, dtype))
    vectors = {id(v): v.nbytes for v in (flat.master, flat.working)}
    reckoned = need(settings)
    padding = 64 * len(flat.places) * 8
    assert 0 <= sum(vectors.values()) - reckoned.weights <= 2 * padding
    assert 0 <= flat.gradient.nbytes - reckoned.gradients <= padding
    assert reckoned.optimizer == 2 * parameter_count(settings) * flat.master.element_size()


def test_recomputing_needs_less_and_a_longer_batch_more():
    def activations(*overrides: str) -> int:
        return need(load_settings("default", overrides, {})).activations

    assert activations("hardware.gradient_checkpoint=true") < activations() < activations("training.batch_size=64")
