"""Virtual ranks: the sum over ranks is formed as the kernel forms it, and what cannot be is refused."""

import numpy as np
import pytest
import torch

from ryzen_mpi.comm.dtypes import reduction
from ryzen_mpi.comm.plain import reduce
from ryzen_mpi.config import Settings
from ryzen_mpi.data.markov import MarkovSource
from ryzen_mpi.errors import UserError
from ryzen_mpi.settings import load_settings
from ryzen_mpi.training.memory import need
from ryzen_mpi.training.step import TrainingStep
from ryzen_mpi.training.virtual import VirtualRanks, make_step, threads

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(**changes):
    tree = {
        "model": dict(vocab_size=31, embedding_dim=16, num_heads=2, num_layers=1, feed_forward_dim=24, seq_length=8),
        "training": dict(batch_size=2, learning_rate=0.01, clip_norm=0.05, log_interval=2),
        "hardware": dict(dtype="float64"),
        "data": dict(source="markov", num_samples=29),
    }
    for key, value in changes.items():
        section, name = key.split("__")
        tree.setdefault(section, {})[name] = value
    return Settings.model_validate(tree)


def source(made):
    return MarkovSource(made.model.vocab_size, made.model.seq_length, made.data.num_samples, made.training.seed)


def step_of(ranks, batch, **changes):
    made = settings(training__virtual_ranks=ranks, **changes)
    return make_step(made, source(made), 0, 1, batch)


def gradients_of_ranks(ranks, batch):
    """Each rank's own gradient of the first step, from a plain TrainingStep that only does that rank's part."""
    found = []
    for rank in range(ranks):
        made = settings()
        alone = TrainingStep(made, source(made), rank, ranks, batch)
        alone._forward_backward(0, batch, rank)
        alone.strategy.reduce()
        found.append(alone.strategy.flat.gradient.clone())
    return found


@pytest.mark.parametrize("ranks, batch", [(2, 8), (3, 7), (4, 10), (4, 3)])
def test_the_gradient_is_summed_in_rank_order_as_the_kernel_does(ranks, batch):
    parts, summed = gradients_of_ranks(ranks, batch), torch.empty(0, dtype=torch.float64)
    summed = torch.empty_like(parts[0])
    how = reduction(torch.float64, "sum", ranks)
    reduce([part.data_ptr() for part in parts], [summed.data_ptr()], summed.numel(), *how)
    ours = step_of(ranks, batch)
    table, *_ = ours._gradient(0, batch, 0)
    assert torch.equal(ours.strategy.flat.gradient, summed)
    backwards = torch.zeros_like(summed)
    for part in reversed(parts):
        backwards += part
    if ranks > 2 and batch > ranks:
        assert not torch.equal(backwards, summed)  # another order would show
    assert (table.tokens > 0).sum() == min(ranks, batch) and table.tokens.sum() == 8 * batch


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_a_whole_run_is_that_of_one_rank_within_rounding(ranks):
    ours, reference = step_of(ranks, 10), step_of(1, 10, training__batch_size=64)
    assert isinstance(ours, VirtualRanks) and type(reference) is TrainingStep
    for _ in range(ours.total_steps):  # 29 samples: the last step has 9
        a, b = ours.run(), reference.run()
        assert a.loss == pytest.approx(b.loss, abs=1e-12)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, abs=1e-12)
        if b.gradient_variance:
            assert np.allclose(a.gradient_variance, b.gradient_variance, rtol=1e-9)
        assert len(a.table.loss) == ranks and a.communication_s == 0
    assert a.step == 3 and a.samples == 29
    difference = (ours.strategy.flat.master - reference.strategy.flat.master).abs().max()
    assert 0 <= difference < 1e-12
    held, expected = ours.evaluate(), reference.evaluate()
    assert held.tokens == expected.tokens and held.loss == pytest.approx(expected.loss, abs=1e-12)
    assert ours.last_times().step_s.shape == (ranks,)


def test_the_default_batch_and_memory_count_virtual_ranks():
    made, plain = settings(training__virtual_ranks=4), settings()
    assert made.global_batch(1) == 8 and plain.global_batch(1) == 2
    assert need(made, 1).of("gradients").rank > 1.5 * need(plain, 1).of("gradients").rank


def test_a_virtual_rank_computes_with_the_threads_a_real_one_would_have():
    assert threads(settings(training__virtual_ranks=4), 8) == 2
    assert threads(settings(training__virtual_ranks=4), 2) == 1
    assert threads(settings(training__virtual_ranks=4, hardware__num_threads=3), 8) == 3
    assert threads(settings(), 8) == 8


@pytest.mark.parametrize(
    "word, named",
    [
        ("hardware.zero_stage=1", "hardware.zero_stage=1"),
        ("distributed.compression=topk", "distributed.compression=topk"),
        ("distributed.backend=gloo", "distributed.backend=gloo"),
    ],
)
def test_combinations_without_sense_are_refused(word, named):
    with pytest.raises(UserError, match="virtual_ranks=2 plays the ranks of one node") as refused:
        load_settings("default", ["training.virtual_ranks=2", word])
    assert named in str(refused.value)
    load_settings("default", ["training.virtual_ranks=2"])
