"""Checkpoints, evaluation and start-up exchange inside a world."""

import functools
import os

import pytest
import tiny
import torch

from ryzen_mpi.cluster.job import all_agree, leader_decides
from ryzen_mpi.errors import UserError
from ryzen_mpi.training.checkpoint import CheckpointWriter, newest_good
from ryzen_mpi.training.choose import make_strategy
from ryzen_mpi.training.evaluate import evaluate
from ryzen_mpi.training.shards import ShardWriter
from ryzen_mpi.training.state import checkpoint_state, checkpoint_tensors, restore
from ryzen_mpi.training.strategy import VECTORS
from ryzen_mpi.training.zero.sharded import Sharded


def saved_and_restored(world, shared, settings, step, **more):
    """A new step that goes on from what `step` saved, through real files."""
    number, tensors = step.progress.step, checkpoint_tensors(step)
    found = None
    if world.is_leader:
        writer = CheckpointWriter(shared, 2, shards=world.size - 1 if step.strategy.cut else 0)
        writer.submit(number, tensors, checkpoint_state(step, "corpus"))
        writer.close()
        found, damaged = newest_good(shared)
        assert found is not None and not damaged
    elif tensors:
        writer = ShardWriter(shared, world.rank)
        writer.submit(number, *tensors.values())
        writer.close()
    other = tiny.distributed(world, settings, step.global_batch, **more)
    for name in VECTORS:  # whatever was there before
        other.strategy.load((name, p.offset, torch.full((p.shape.numel(),), 3.0)) for p in other.strategy.layout.places)
    restore(world, other, found)
    return other


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(world, group, shared, dtype, stage):
    settings = tiny.settings(
        hardware__dtype=dtype,
        hardware__zero_stage=stage,
        training__batch_size=3,
        training__max_steps=6,
        model__dropout=0.1,
    )
    whole, half = tiny.distributed(world, settings, 12), tiny.distributed(world, settings, 12)
    expected = [outcome.loss for outcome in tiny.run(whole, 6)]
    first = [outcome.loss for outcome in tiny.run(half, 3)]
    resumed = saved_and_restored(world, shared, settings, half)
    assert tiny.fingerprint(resumed) == tiny.fingerprint(half)
    assert first + [outcome.loss for outcome in tiny.run(resumed, 3)] == expected
    assert tiny.fingerprint(resumed) == tiny.fingerprint(whole)
    assert tiny.same_everywhere(world, tiny.fingerprint(resumed))


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 2)])
def test_a_checkpoint_loads_at_another_stage_and_cut(world, group, shared, before, after):
    settings = [tiny.settings(hardware__zero_stage=stage, training__batch_size=3) for stage in (before, after)]
    cut_otherwise = functools.partial(Sharded, bucket_bytes=4096) if after else make_strategy
    step = tiny.distributed(world, settings[0], 12)
    tiny.run(step, 3)
    resumed = saved_and_restored(world, shared, settings[1], step, strategy=cut_otherwise)
    assert tiny.largest_vector_difference(step, resumed) == 0
    tiny.run(step, 2), tiny.run(resumed, 2)
    assert tiny.largest_vector_difference(step, resumed) < 1e-12


def test_skipped_steps_survive_a_resume(world, group, shared):
    settings = tiny.settings()
    step = tiny.distributed(world, settings, 12)
    tiny.run(step, 1)
    forward = step.model.forward
    step.model.forward = lambda *inputs: (forward(*inputs)[0] * float("inf"), torch.tensor(0))
    assert step.run().skipped
    step.model.forward = forward
    resumed = saved_and_restored(world, shared, settings, step)
    assert (resumed.progress.step, resumed.progress.skipped, resumed.strategy.updates) == (2, 1, 1)
    assert [a.loss for a in tiny.run(resumed, 2)] == [b.loss for b in tiny.run(step, 2)]


@pytest.mark.parametrize("samples", [1, 50, 10_000])
def test_an_evaluation_gives_the_figures_of_one_rank(world, group, solo, samples):
    step = tiny.distributed(world, tiny.settings(), 12)
    tiny.run(step, 3)
    ours = evaluate(step.model, step.source, samples, 7, world.rank, world.size)
    reference = evaluate(step.model, step.source, samples, 64, 0, 1)
    assert ours.loss == pytest.approx(reference.loss, abs=1e-12)
    assert (ours.accuracy, ours.tokens) == (reference.accuracy, reference.tokens)
    assert ours.tokens == 12 * min(samples, step.source.num_held_out)


def test_exchange_carries_text_of_all_scripts_large_values_and_uneven_sizes(world):
    values = ["", "Ελληνικά 漢字 🚀 \u0000\n", None, [1.5, {"key": [True, None]}], "x" * 3_000_000, "\ud800"]
    for value in values:
        assert world.exchange.allgather(value) == [value] * world.size
        assert world.exchange.broadcast(value if world.is_leader else "not this") == value
    uneven = [["é" * (100_000 * rank), rank] for rank in range(world.size)]
    assert world.exchange.allgather(uneven[world.rank]) == uneven


def test_every_rank_runs_where_the_plan_says(world, place):
    assert tuple(sorted(os.sched_getaffinity(0))) == place.mine.cpus
    assert [row[0] for row in place.rows] == [str(rank) for rank in range(world.size)]
    everyone = world.exchange.allgather(list(place.mine.cpus))
    used = [cpu for cpus in everyone for cpu in cpus]
    shared = len(used) > len(set(used))
    assert shared == place.mine.shared or world.size > 2
    assert shared == any("ranks share" in text for text in place.warnings)
    cores = len(os.sched_getaffinity(os.getppid()))
    assert shared == (world.size > cores)
    assert world.exchange.allgather([world.rank, world.local_rank]) == [[r, r] for r in range(world.size)]


def test_what_the_leader_decides_all_know_and_its_error_all_raise(world):
    assert leader_decides(world, lambda: {"chosen": world.rank}) == {"chosen": 0}

    def refuse():
        assert world.is_leader, "only the leader acts"
        raise UserError("no such thing", "another thing")

    with pytest.raises(UserError) as error:
        leader_decides(world, refuse)
    assert (error.value.message, error.value.hint) == ("no such thing", "another thing")
    assert leader_decides(world, lambda: 7) == 7  # and the ranks are still in step


def test_an_error_of_one_rank_is_raised_by_all(world):
    def refuse_on_the_last():
        if world.rank == world.size - 1:
            raise UserError("no room", "a larger node")
        return world.rank

    with pytest.raises(UserError) as error:
        all_agree(world, refuse_on_the_last)
    told = f"rank {world.size - 1}: no room" if world.size > 1 else "no room"
    assert (error.value.message, error.value.hint) == (told, "a larger node")
    assert all_agree(world, lambda: world.rank) == world.rank


def test_interfaces_and_the_store_are_those_the_ranks_share(world, group):
    assert tiny.same_everywhere(world, group.store_address)
    assert tiny.same_everywhere(world, os.environ["GLOO_SOCKET_IFNAME"])
    assert group.interface.name == "lo"  # one node: nothing leaves it
