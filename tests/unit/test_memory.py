"""Memory: reckoned before it is allocated."""

from __future__ import annotations

import pytest
import torch

from ryzen_mpi.config import Settings
from ryzen_mpi.model.transformer import Transformer, parameter_count
from ryzen_mpi.settings import load_settings
from ryzen_mpi.training.flat import FlatParameters
from ryzen_mpi.training.memory import activations, need


def settings(*overrides: str, profile: str = "default") -> Settings:
    return load_settings(profile, overrides, {})


def test_a_node_needs_what_its_ranks_need_alone_and_what_they_share_once():
    reckoned = need(settings("hardware.zero_stage=2", "hardware.dtype=bfloat16"), 4)
    alone, shared = sum(p.rank for p in reckoned.parts), sum(p.node for p in reckoned.parts)
    assert reckoned.steady == 4 * alone + shared and reckoned.rank == alone + shared // 4
    assert reckoned.node == reckoned.steady + reckoned.saving.node
    assert all(part.name in reckoned.text() for part in reckoned.parts if part.rank or part.node)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_gradients_and_moments_are_what_the_flat_vectors_hold(dtype):
    made = settings(f"hardware.dtype={dtype}")
    flat = FlatParameters(Transformer(made), getattr(torch, dtype))
    narrow = flat.working.nbytes if flat.working is not flat.master else 0
    reckoned, padding = need(made, 1), 64 * len(flat.places) * 8
    assert 0 <= narrow - reckoned.of("weights").rank <= padding
    assert 0 <= 3 * flat.master.nbytes - reckoned.of("optimizer").rank <= 3 * padding
    one = max(p.numel() for p in flat.parameters.values()) * flat.working.element_size()
    assert abs(flat.gradient.nbytes + one - reckoned.of("gradients").rank) <= padding


def test_every_stage_needs_less_of_a_node_than_the_one_before():
    shared = "distributed.backend=mpi"  # the documents' profile asks for gloo, which has no memory to share
    made = [settings(f"hardware.zero_stage={stage}", shared, profile="production_4process") for stage in (0, 1, 2)]
    of_stage = [need(one, 4) for one in made]
    assert of_stage[0].steady > of_stage[1].steady > of_stage[2].steady
    count = parameter_count(made[0])
    assert of_stage[2].of("weights").node == 2 * count and of_stage[2].of("optimizer").node == 12 * count
    assert of_stage[1].of("arenas").rank == 4 * count


def test_more_nodes_share_the_optimizer():
    one, four = (need(settings("hardware.zero_stage=2"), 4, nodes) for nodes in (1, 4))
    assert four.of("optimizer").node == one.of("optimizer").node // 4
    assert four.saving.node == one.saving.node // 4


@pytest.mark.parametrize(("per", "copies"), [("node", 1), ("numa", 2), ("rank", 4)])
def test_every_copy_of_the_weights_counts(per, copies):
    made = settings("hardware.zero_stage=2", "hardware.dtype=bfloat16", f"hardware.weights_per={per}")
    assert need(made, 4, domains=2).of("weights").node == 2 * copies * parameter_count(made)
    assert need(made, 4).of("weights").node == 2 * (4 if per == "rank" else 1) * parameter_count(made)


@pytest.mark.parametrize("how", ["distributed.arena=false", "distributed.backend=gloo"])
def test_without_shared_memory_every_rank_has_the_weights_and_wide_buckets(how):
    made = settings("hardware.zero_stage=1", "hardware.dtype=bfloat16", how)
    count = parameter_count(made)
    assert need(made, 4, 2).of("weights").node == 4 * 2 * count
    assert need(made, 4, 2).of("arenas").rank == 4 * count
    assert need(made, 4, 2).of("optimizer").node == 3 * 4 * count // 2


def test_recomputing_needs_less_and_a_longer_batch_more():
    assert activations(settings("hardware.gradient_checkpoint=true")) == activations(settings(), recompute=True)
    assert activations(settings(), True) < activations(settings()) < activations(settings("training.batch_size=64"))
