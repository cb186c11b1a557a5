"""B7: a step's result is the same at any number of ranks, however the samples are divided."""

import functools

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.nn.functional as F

from ryzen_mpi.training.reduce import BucketedReducer, NaiveReducer
from ryzen_mpi.training.schedule import learning_rate

MANY_BUCKETS = functools.partial(BucketedReducer, bucket_bytes=2048)
VARIANTS = {
    "batch 4": (12, {}),
    "batch 3": (12, dict(training__batch_size=3)),
    "batch 1": (12, dict(training__batch_size=1)),
    "batch 12": (12, dict(training__batch_size=12)),
    "uneven global batch 7": (7, dict(training__batch_size=2)),
    "a rank without a sample in the last step": (12, dict(data__num_samples=49)),
    "dropout": (12, dict(model__dropout=0.1, training__batch_size=3)),
    "recomputed activations": (12, dict(hardware__gradient_checkpoint=True, model__dropout=0.1)),
    "untied head": (12, dict(model__tied_head=False)),
    "clipping": (12, dict(training__clip_norm=0.05)),
    "no clipping, Adam": (12, dict(training__clip_norm=0.0, training__optimizer="adam")),
    "random tokens, second epoch": (12, dict(data__source="random", data__num_samples=30, training__total_epochs=2)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_five_steps_in_float64_equal_those_of_one_rank_without_accumulation(world, group, solo, name):
    batch, changes = VARIANTS[name]
    ours = tiny.distributed(world, tiny.settings(**changes), batch)
    reference = tiny.alone(solo, tiny.settings(**changes | dict(training__batch_size=64)), batch)
    assert ours.total_steps == reference.total_steps == tiny.STEPS
    start = ours.strategy.flat.master.clone()
    got, expected = tiny.run(ours), tiny.run(reference)
    assert tiny.largest_difference(ours.strategy.flat.master, start) > 1e-3  # it did train
    assert tiny.largest_difference(ours.strategy.flat.master, reference.strategy.flat.master) < 1e-12
    assert tiny.largest_difference(ours.strategy.optimizer.second, reference.strategy.optimizer.second) < 1e-12
    for a, b in zip(got, expected, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=1e-12)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, abs=1e-12)
        assert (a.step, a.samples, a.tokens, a.learning_rate) == (b.step, b.samples, b.tokens, b.learning_rate)
        assert a.accuracy == pytest.approx(b.accuracy, abs=1e-15)
        assert a.table.tokens.sum() == a.tokens
    clip = ours.settings.training.clip_norm
    if name == "clipping":
        assert all(outcome.gradient_norm > clip for outcome in got)
    if name.startswith("a rank without"):
        assert got[-1].tokens == 12 and (got[-1].table.tokens == 0).sum() == world.size - 1
    assert tiny.same_everywhere(world, tiny.fingerprint(ours))


def test_the_reference_itself_equals_a_plain_pytorch_loop(world, group, solo):
    settings = tiny.settings(training__clip_norm=0.3, training__batch_size=12)
    step, model = tiny.alone(solo, settings, 12), tiny.build_model(settings).double()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    training = settings.training
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": training.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        betas=(training.beta1, training.beta2),
        foreach=False,
    )
    for number in range(tiny.STEPS):
        samples = torch.from_numpy(step.source.sample(step.sampler.indices(12 * number, 12)))
        logits = F.linear(model.hidden(samples[:, :-1]), model.head_weight)
        loss = F.cross_entropy(logits.flatten(0, 1), samples[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
        assert norm > training.clip_norm
        for p in model.parameters():  # by hand: clip_grad_norm_ adds 1e-6 to the norm
            p.grad *= training.clip_norm / norm
        for part in optimizer.param_groups:
            part["lr"] = learning_rate(number, tiny.STEPS, training)
        optimizer.step()
        assert step.run().loss == pytest.approx(loss.item(), abs=1e-12)
    weights = step.strategy.flat.named(step.strategy.flat.master)
    assert max(tiny.largest_difference(weights[n], p.detach()) for n, p in model.named_parameters()) < 1e-12


@pytest.mark.parametrize("reducer", [BucketedReducer, MANY_BUCKETS, NaiveReducer], ids=["one", "many", "naive"])
def test_every_reducer_trains_the_same(world, group, solo, reducer):
    settings = tiny.settings(training__batch_size=2, model__dropout=0.1)
    ours = tiny.distributed(world, settings, 11, strategy=tiny.with_reducer(reducer))
    reference = tiny.alone(solo, settings, 11, strategy=tiny.with_reducer(NaiveReducer))
    if reducer is MANY_BUCKETS:
        assert len(ours.strategy.reducer.buckets) > 10
    tiny.run(ours), tiny.run(reference)
    assert tiny.largest_difference(ours.strategy.flat.master, reference.strategy.flat.master) < 1e-12


@pytest.mark.parametrize("reducer", [MANY_BUCKETS, NaiveReducer], ids=["many buckets", "naive"])
@pytest.mark.parametrize("batch_size", [1, 2, 12])
def test_gradients_equal_those_of_distributed_data_parallel(world, group, reducer, batch_size):
    settings = tiny.settings(training__batch_size=batch_size, training__clip_norm=0.0)
    step = tiny.distributed(world, settings, 11, strategy=tiny.with_reducer(reducer))
    peer = torch.nn.parallel.DistributedDataParallel(tiny.build_model(settings).double())
    batches = list(step.micro_batches(0, 11))
    for number, positions in enumerate(batches, start=1):
        samples = torch.from_numpy(step.source.sample(step.sampler.indices(int(positions[0]), len(positions))))
        peer.require_backward_grad_sync = number == len(batches)
        loss, _ = peer(samples[:, :-1], samples[:, 1:], 1 / (11 * settings.model.seq_length))
        loss.backward()
    outcome = step.run()
    gradients = step.strategy.flat.named(step.strategy.flat.gradient)
    for name, parameter in peer.module.named_parameters():
        # DistributedDataParallel divides by the ranks; our loss is divided by the global batch already
        assert tiny.largest_difference(gradients[name], parameter.grad * world.size) < 1e-12, name
    assert outcome.gradient_norm > 0


def test_float32_stays_within_rounding_of_one_rank(world, group, solo):
    settings = tiny.settings(hardware__dtype="float32", training__batch_size=3)
    ours, reference = tiny.distributed(world, settings, 12), tiny.alone(solo, settings, 12)
    got, expected = tiny.run(ours), tiny.run(reference)
    assert [a.loss for a in got] == pytest.approx([b.loss for b in expected], rel=1e-5)
    # Adam makes a step of the learning rate out of any gradient, however small: compare in the mean
    assert float((ours.strategy.flat.master - reference.strategy.flat.master).abs().mean()) < 1e-5


def test_bfloat16_is_finite_near_one_rank_and_keeps_float32_masters(world, group, solo):
    settings = tiny.settings(hardware__dtype="bfloat16", training__batch_size=3)
    ours, reference = tiny.distributed(world, settings, 12), tiny.alone(solo, settings, 12)
    got, expected = tiny.run(ours), tiny.run(reference)
    assert [a.loss for a in got] == pytest.approx([b.loss for b in expected], rel=0.02)
    assert ours.strategy.flat.master.dtype == torch.float32 and bool(ours.strategy.flat.master.isfinite().all())
    assert torch.equal(ours.strategy.flat.working, ours.strategy.flat.master.bfloat16())
    assert tiny.same_everywhere(world, tiny.fingerprint(ours))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_all_ranks_start_from_the_weights_of_rank_0(world, group, stage):
    def settings(seed):
        return tiny.settings(hardware__zero_stage=stage, training__seed=seed)

    step, same = (tiny.distributed(world, settings(seed), 12) for seed in (7 + world.rank, 7))
    assert tiny.fingerprint(step) == tiny.fingerprint(same)
    first = tiny.build_model(settings(7))
    assert all(
        torch.equal(p.data, q.data) for p, q in zip(step.model.parameters(), first.double().parameters(), strict=True)
    )


def nan_loss(loss):
    """A loss that is not finite with gradients that are: only the agreement can tell the others."""
    return loss + torch.tensor(float("nan"), dtype=loss.dtype)


def nan_gradient(loss):
    """A finite loss whose gradient is not."""
    loss.register_hook(lambda gradient: gradient * float("nan"))
    return loss


@pytest.mark.parametrize("plant", [nan_loss, nan_gradient])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_step_with_a_nan_on_the_last_rank_is_skipped_by_all(world, group, plant, dtype):
    step = tiny.distributed(world, tiny.settings(hardware__dtype=dtype), 12, strategy=tiny.with_reducer(MANY_BUCKETS))
    forward = step.model.forward

    def poisoned(*inputs):
        loss, right = forward(*inputs)
        return plant(loss), right

    tiny.run(step, 2)
    strategy = step.strategy
    before = strategy.flat.master.clone(), strategy.optimizer.first.clone(), strategy.flat.working.clone()
    step.model.forward = poisoned if world.rank == world.size - 1 else forward
    bad = step.run()
    after = strategy.flat.master, strategy.optimizer.first, strategy.flat.working
    step.model.forward = forward
    assert bad.skipped and step.progress.skipped == 1 and step.progress.step == 3 and strategy.updates == 2
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    again = tiny.run(step, 2)
    assert [outcome.skipped for outcome in again] == [False, False] and again[-1].loss > 0
    assert step.strategy.updates == 4 and step.progress.samples == 60
    assert not torch.equal(before[0], strategy.flat.master)
    assert tiny.same_everywhere(world, tiny.fingerprint(step))


def test_a_request_to_stop_on_one_rank_reaches_all_in_the_same_step(world, group):
    step = tiny.distributed(world, tiny.settings(), 12)
    seen = [step.run(10 if world.rank == world.size - 1 and number == 2 else 0).stop for number in range(4)]
    assert seen == [0, 0, 10, 0]


def test_the_table_of_a_step_has_a_row_of_every_rank(world, group):
    step = tiny.distributed(world, tiny.settings(), 12)
    first, second = tiny.run(step, 2)
    last = step.last_times()
    assert first.table.rss_bytes.shape == (world.size,) and (first.table.rss_bytes > 50e6).all()
    assert (second.table.step_s > 0).all() and (last.step_s > 0).all()
    assert last.step_s[world.rank] == second.step_s and second.table.step_s[world.rank] == first.step_s
    assert (last.communication_s <= last.step_s).all()
    assert dist.get_world_size() == world.size
