"""The order of samples: every one once an epoch, whoever asks, in whatever portions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ryzen_mpi.data.sampler import Sampler, rank_slice
from ryzen_mpi.errors import UserError

seeds = st.integers(0, 2**64 - 1)


@given(st.integers(1, 700), seeds, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_index_occurs_once_an_epoch(num_samples, seed, epoch):
    indices = Sampler(num_samples, seed).indices(epoch * num_samples, num_samples)
    assert indices.dtype == np.int64
    assert sorted(indices) == list(range(num_samples))


@given(
    st.integers(1, 200),
    seeds,
    st.lists(st.tuples(st.integers(1, 64), st.integers(1, 9)), min_size=1, max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_a_run_that_is_resized_at_any_step_trains_the_same_stream(num_samples, seed, steps):
    trained, position = [], 0
    for global_batch, world_size in steps:
        # Each rank has a sampler of its own, as in a run that was just restarted at another size.
        for rank in range(world_size):
            batch = Sampler(num_samples, seed).indices(position, global_batch)
            trained.extend(batch[rank_slice(global_batch, rank, world_size)])
        position += global_batch
    assert trained == Sampler(num_samples, seed).indices(0, position).tolist()


@given(st.integers(0, 300), st.integers(1, 40))
def test_rank_slices_follow_one_another_and_differ_by_at_most_one(count, size):
    slices = [rank_slice(count, rank, size) for rank in range(size)]
    lengths = [part.stop - part.start for part in slices]
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(count))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] <= 1


@pytest.mark.parametrize("num_samples", [2**31 + 11, 2**48 - 1, 2**48])
def test_a_huge_data_set_costs_no_memory_and_gives_no_index_twice(num_samples):
    sampler = Sampler(num_samples, 7)
    for position in (0, num_samples - 2000, 5 * num_samples + 3):
        indices = sampler.indices(position, 4000)
        within = indices[:2000] if position == num_samples - 2000 else indices
        assert len(set(within.tolist())) == len(within)
        assert 0 <= indices.min() and indices.max() < num_samples
        assert indices.max() > num_samples // 2 > indices.min()


def test_a_batch_across_the_end_of_an_epoch_is_the_end_of_one_and_the_start_of_the_next():
    sampler = Sampler(10, 3)
    both = np.concatenate([sampler.indices(7, 3), sampler.indices(10, 5)])
    assert sampler.indices(7, 8).tolist() == both.tolist()


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed, epoch):
        return tuple(Sampler(1000, seed).indices(epoch * 1000, 1000))

    orders = {order(seed, epoch) for seed in range(8) for epoch in range(8)}
    assert len(orders) == 64


def test_the_order_is_the_one_of_earlier_versions():
    # A change here makes every interrupted run train some samples twice and others never.
    assert Sampler(10, 0).indices(0, 10).tolist() == [7, 0, 9, 8, 1, 4, 5, 6, 3, 2]
    across_epochs = Sampler(10**12, 42).indices(10**12 - 2, 4)
    assert across_epochs.tolist() == [658061091921, 638417781610, 506388436936, 526144314113]


@pytest.mark.parametrize("num_samples", [2, 3, 10, 64, 65])
@pytest.mark.parametrize("slot", [0, 1, -1])
def test_each_index_is_as_likely_as_any_other_at_a_place_of_the_epoch(num_samples, slot):
    trials = 30 * num_samples
    place = slot % num_samples
    first = [Sampler(num_samples, seed).indices(place, 1)[0] for seed in range(trials)]
    assert stats.chisquare(np.bincount(first, minlength=num_samples)).pvalue > 1e-4


def test_all_orders_of_four_samples_are_equally_likely():
    orders = Sampler(4, 5).indices(0, 4 * 4800).reshape(4800, 4)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("num_samples", [1000, 4096, 50_000])
def test_neighbours_do_not_stay_neighbours(num_samples):
    order = Sampler(num_samples, 1).indices(0, num_samples)
    steps = np.abs(np.diff(order))
    # About 2 of n - 1 steps are +-1 in a random permutation, whatever n.
    assert (steps == 1).sum() <= 10
    assert abs(stats.spearmanr(order[:-1], order[1:]).statistic) < 5 / np.sqrt(num_samples)
    assert abs(stats.spearmanr(order, np.arange(num_samples)).statistic) < 5 / np.sqrt(num_samples)


def test_successive_epochs_are_uncorrelated():
    sampler = Sampler(20_000, 9)
    first, second = sampler.indices(0, 20_000), sampler.indices(20_000, 20_000)
    assert abs(stats.spearmanr(first, second).statistic) < 5 / np.sqrt(20_000)
    assert (first == second).sum() <= 10


def test_nothing_asked_is_nothing_given():
    assert Sampler(5, 0).indices(3, 0).shape == (0,)


@pytest.mark.parametrize(("num_samples", "seed"), [(0, 0), (-1, 0), (2**48 + 1, 0), (1, -1), (1, 2**64)])
def test_impossible_settings_are_user_errors(num_samples, seed):
    with pytest.raises(UserError) as caught:
        Sampler(num_samples, seed)
    assert caught.value.hint


def test_impossible_positions_and_ranks_are_refused():
    for position, count in ((-1, 1), (0, -1), (2**63, 1)):
        with pytest.raises(ValueError, match="positions"):
            Sampler(5, 0).indices(position, count)
    for rank, size in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="rank"):
            rank_slice(4, rank, size)
