"""ZeRO with odd models: small, frozen, tied, with parameters that a step does not use, with NaN."""

import pytest
import tiny
import torch
from test_step_in_a_world import nan_gradient, nan_loss
from torch import nn

from ryzen_mpi.training.zero.ground import PlainGround
from ryzen_mpi.training.zero.sharded import Sharded

RATE = 0.01


class Drawn(nn.Module):
    """What a strategy asks of a model: first values one after the other."""

    def first_values(self, seed):
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            yield name, torch.randn(parameter.shape, generator=generator) / 2

    def initialised(self, seed):
        """With them."""
        values = dict(self.first_values(seed))
        for name, parameter in self.named_parameters():
            parameter.data.copy_(values[name])
        return self


class Odd(Drawn):
    """Of four matrices one is frozen, one used twice, one used by another rank in each step, and one by nobody."""

    def __init__(self):
        super().__init__()
        for name in ("frozen", "first", "seldom", "never"):
            setattr(self, name, nn.Parameter(torch.zeros(9, 9, dtype=torch.float64)))
        self.bias = nn.Parameter(torch.zeros(9, dtype=torch.float64))
        self.tied = self.first
        self.frozen.requires_grad = False

    def forward(self, inputs, all_of_it):
        hidden = torch.tanh(inputs @ self.first @ self.frozen + self.bias) @ self.tied.T
        return (hidden @ self.seldom if all_of_it else hidden).square().sum()


class One(Drawn):
    """A single number."""

    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs, _):
        return (inputs.sum() * self.number).square().sum()


def inputs(step, rank):
    return torch.randn(4, 9, generator=torch.Generator().manual_seed(100 * step + rank), dtype=torch.float64)


def train(strategy, model, world, steps):
    for step in range(steps):
        strategy.begin()
        strategy.before_backward(last=True)
        model(inputs(step, world.rank), world.rank == step % world.size).backward()
        strategy.after_micro_batch()
        strategy.reduce()
        strategy.update(1.0, RATE)


def in_plain_pytorch(model, world, settings, steps):
    """All ranks' samples on one, in PyTorch's own loop; parameters without a gradient get one of zero."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for p in trained.values() if p.ndim >= 2], "weight_decay": settings.training.weight_decay},
        {"params": [p for p in trained.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = settings.training.beta1, settings.training.beta2
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=RATE, betas=betas)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=False)
        for parameter in trained.values():
            parameter.grad = torch.zeros_like(parameter)
        sum(model(inputs(step, rank), rank == step % world.size) for rank in range(world.size)).backward()
        optimizer.step()


def plain(model, settings, group):
    return Sharded(model, settings, group, PlainGround(group), bucket_bytes=1024)


def shared(model, settings, group):
    return Sharded(model, settings, group, bucket_bytes=1024)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("make", [plain, shared])
@pytest.mark.parametrize("kind", [Odd, One])
def test_it_trains_them_as_pytorch_does(world, group, kind, make, stage):
    settings = tiny.settings(hardware__zero_stage=stage, training__weight_decay=0.3)
    ours, reference = kind(), kind().initialised(settings.training.seed)
    start = {name: p.detach().clone() for name, p in reference.named_parameters()}
    strategy = make(ours, settings, None)
    train(strategy, ours, world, 4)
    in_plain_pytorch(reference, world, settings, 4)
    expected = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        assert tiny.largest_difference(parameter.detach(), expected[name].detach()) < 1e-12, name
        assert torch.equal(parameter.detach(), start[name]) == (name == "frozen"), name
    if kind is Odd:
        assert ours.tied is ours.first
        assert [place.name for place in strategy.layout.places] == ["never", "seldom", "first", "bias"]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_model_smaller_than_the_ranks_leaves_some_with_padding_alone(world, group, stage):
    model, settings = One(), tiny.settings(hardware__zero_stage=stage)
    strategy = shared(model, settings, None)
    train(strategy, model, world, 2)
    held = [begin for _, shard in strategy.vectors() for begin, _ in strategy.cut.stretches(shard, strategy.ground.me)]
    assert len(held) == (3 if world.rank == 0 else 0)
    first = One().initialised(settings.training.seed)
    assert tiny.same_everywhere(world, float(model.number)) and float(model.number) != float(first.number)


@pytest.mark.parametrize("plant", [nan_loss, nan_gradient])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("make", [plain, shared])
def test_a_step_with_a_nan_on_the_last_rank_is_skipped_by_all(world, group, make, stage, dtype, plant):
    settings = tiny.settings(hardware__dtype=dtype, hardware__zero_stage=stage, training__batch_size=2)
    step = tiny.distributed(world, settings, 12, strategy=make)
    forward = step.model.forward

    def poisoned(*inputs):
        loss, right = forward(*inputs)
        return plant(loss), right

    tiny.run(step, 2)
    before, weights = tiny.vectors(step), step.strategy.ground.weights.clone()
    step.model.forward = poisoned if world.rank == world.size - 1 else forward
    assert step.run().skipped
    step.model.forward = forward
    after = tiny.vectors(step)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(weights, step.strategy.ground.weights) and step.strategy.updates == 2
    assert [outcome.skipped for outcome in tiny.run(step, 2)] == [False, False]
    assert step.strategy.updates == 4 and step.progress.skipped == 1
    assert all(bool(vector.isfinite().all()) for vector in tiny.vectors(step).values())
