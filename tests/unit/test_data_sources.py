"""Synthetic sources: pure in (seed, index), and with the entropy they say they have."""

import math
import subprocess
import sys

import numpy as np
import pytest

from ryzen_mpi.data.markov import MarkovSource
from ryzen_mpi.data.random_tokens import RandomTokens
from ryzen_mpi.errors import UserError

BOTH = pytest.mark.parametrize("make", [RandomTokens, MarkovSource])


@BOTH
def test_samples_have_the_promised_shape_type_and_range(make):
    source = make(50, 16, 1000, seed=1)
    for drawn in (source.sample([3, 999, 3]), source.held_out(np.array([0, 1, 255]))):
        assert drawn.shape == (3, 17)
        assert drawn.dtype == np.int64
        assert drawn.min() >= 0 and drawn.max() < 50
    assert source.sample([]).shape == (0, 17)


@BOTH
def test_a_sample_depends_on_seed_and_index_only(make):
    source = make(50, 32, 2**48, seed=2**64 - 1)
    batch = source.sample([5, 2**48 - 1, 7])
    again = make(50, 32, 10, seed=2**64 - 1)
    assert (again.sample([7])[0] == batch[2]).all()
    assert (again.sample([5])[0] == batch[0]).all()
    seeds = [0, 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]
    assert len({make(50, 32, 10, seed=seed).sample([7]).tobytes() for seed in seeds}) == len(seeds)


@BOTH
def test_held_out_samples_are_not_training_samples(make):
    source = make(50, 32, 256, seed=3)
    training = {row.tobytes() for row in source.sample(range(256))}
    held_out = {row.tobytes() for row in source.held_out(range(source.num_held_out))}
    assert len(training) == 256 and len(held_out) == source.num_held_out
    assert not training & held_out


@BOTH
def test_an_index_out_of_range_is_refused_rather_than_wrapped(make):
    source = make(50, 8, 10, seed=0)
    for indices in ([10], [-1]):
        with pytest.raises(IndexError):
            source.sample(indices)
    with pytest.raises(IndexError):
        source.held_out([source.num_held_out])


@BOTH
def test_numbers_are_encoded_and_decoded_and_words_are_a_user_error(make):
    source = make(50, 8, 10, seed=0)
    assert source.encode("3 1,4\n49").tolist() == [3, 1, 4, 49]
    assert source.decode(source.encode("3 1 4")) == "3 1 4"
    assert source.encode("").shape == (0,)
    for text in ("hello", "50", "-1", "1.5", "9" * 30):
        with pytest.raises(UserError) as caught:
            source.encode(text)
        assert "0 to 49" in caught.value.hint


@BOTH
@pytest.mark.parametrize("wrong", [{"vocab_size": 1}, {"seq_length": 0}, {"num_samples": 0}, {"seed": -1}])
def test_impossible_settings_name_themselves(make, wrong):
    settings = {"vocab_size": 50, "seq_length": 8, "num_samples": 10, "seed": 0} | wrong
    with pytest.raises(UserError, match=next(iter(wrong))) as caught:
        make(**settings)
    assert " to " in caught.value.hint


@pytest.mark.parametrize("branching", [1, 51])
def test_impossible_branching_is_a_user_error(branching):
    with pytest.raises(UserError, match="branching"):
        MarkovSource(50, 8, 10, 0, branching=branching)


def test_random_tokens_are_uniform_and_their_floor_is_ln_v():
    source = RandomTokens(20, 99, 1000, seed=4)
    counts = np.bincount(source.sample(range(1000)).ravel(), minlength=20)
    assert np.abs(counts / 5000 - 1).max() < 0.08
    assert source.floor.entropy_rate == source.floor.unigram_entropy == math.log(20)


def dense(source):
    matrix = np.zeros((source.vocab_size, source.vocab_size))
    np.add.at(matrix, (np.arange(source.vocab_size)[:, None], source.successors), source.probabilities)
    return matrix


@pytest.mark.parametrize(("vocab_size", "branching"), [(2, 2), (3, 2), (7, 7), (64, 2), (200, 4)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_chain_is_irreducible_aperiodic_and_settles_where_it_says(vocab_size, branching, seed):
    source = MarkovSource(vocab_size, 8, 10, seed, branching=branching)
    assert all(len(set(row)) == branching for row in source.successors.tolist())
    matrix = dense(source)
    assert np.allclose(matrix.sum(axis=1), 1)
    # A non-negative matrix is irreducible and aperiodic exactly if its power (n - 1)^2 + 1 has no
    # zero (Wielandt 1950).
    assert (np.linalg.matrix_power(matrix, (vocab_size - 1) ** 2 + 1) > 0).all()
    equations = np.vstack([matrix.T - np.eye(vocab_size), np.ones(vocab_size)])
    solved = np.linalg.lstsq(equations, np.eye(vocab_size + 1)[-1])[0]
    assert np.allclose(solved, source.stationary, atol=1e-11)


def test_some_state_may_follow_itself_whatever_the_draw():
    for seed in range(30):  # a fourth of such small chains would have no such state by chance
        source = MarkovSource(6, 8, 10, seed, branching=2)
        assert (source.successors == np.arange(6)[:, None]).any()


def test_empirical_entropies_approach_the_closed_form():
    source = MarkovSource(16, 499, 800, seed=5, branching=4)
    tokens = source.sample(range(800))
    pairs = np.bincount((tokens[:, :-1] * 16 + tokens[:, 1:]).ravel(), minlength=256).reshape(16, 16)
    joint = pairs / pairs.sum()
    before = joint.sum(axis=1, keepdims=True)
    seen = joint > 0
    conditional = -(joint * np.log(np.where(seen, joint / before, 1))).sum()
    assert conditional == pytest.approx(source.floor.entropy_rate, abs=0.005)
    assert -(before * np.log(before)).sum() == pytest.approx(source.floor.unigram_entropy, abs=0.005)
    assert source.floor.entropy_rate < source.floor.unigram_entropy < math.log(16)
    assert (seen == (dense(source) > 0)).all()


def test_every_position_of_a_markov_sample_has_the_same_distribution():
    source = MarkovSource(8, 30, 20_000, seed=6, branching=2)
    tokens = source.sample(range(20_000))
    for position in (0, 1, 15, 30):
        share = np.bincount(tokens[:, position], minlength=8) / 20_000
        assert np.abs(share - source.stationary).max() < 0.015


def test_a_large_vocabulary_is_built_in_seconds():
    source = MarkovSource(32_768, 8, 10, seed=0)
    assert source.stationary.sum() == pytest.approx(1)
    assert 0 < source.floor.entropy_rate < math.log(4)


@BOTH
def test_the_description_is_one_line_with_the_floor(make):
    line = make(50, 8, 10, seed=0).describe()
    assert "\n" not in line and "floor" in line and "50" in line


def test_the_room_needs_neither_torch_nor_mpi():
    program = (
        "import sys, pkgutil, importlib, ryzen_mpi.data as room\n"
        "for m in pkgutil.iter_modules(room.__path__): importlib.import_module('ryzen_mpi.data.' + m.name)\n"
        "print(sorted({'torch', 'mpi4py', 'tokenizers', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
