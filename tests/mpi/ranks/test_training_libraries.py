"""PyTorch's own training libraries over this backend give what they give over Gloo."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

STEPS = 4


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(13, 37), nn.Tanh(), nn.Linear(37, 29), nn.Tanh(), nn.Linear(29, 5)).double()


def train(model, optimizer, rank):
    """The losses of this rank, on data of its own."""
    random, losses = torch.Generator().manual_seed(rank), []
    for _ in range(STEPS):
        inputs, targets = torch.randn((2, 8, 13), generator=random, dtype=torch.float64), None
        targets = inputs[1, :, :5]
        loss = (model(inputs[0]) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def whole(parameter):
    tensor = parameter.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, foreach=False)


def data_parallel(group, rank):
    model = DistributedDataParallel(network(rank), process_group=group, bucket_cap_mb=0.002)
    return train(model, adam(model.parameters()), rank), list(model.module.parameters())


def fully_sharded(group, rank):
    model = network()
    mesh = DeviceMesh.from_group(group, "cpu")
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return train(model, adam(model.parameters()), rank), [whole(p) for p in model.parameters()]


def zero_redundancy(group, rank):
    model = DistributedDataParallel(network(), process_group=group)
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), torch.optim.AdamW, process_group=group, lr=0.01, foreach=False
    )
    losses = train(model, optimizer, rank)
    optimizer.consolidate_state_dict(0)
    return losses, list(model.module.parameters())


@pytest.mark.parametrize("way", [data_parallel, fully_sharded, zero_redundancy])
def test_training_equals_that_over_gloo(world, ryzen, way):
    losses, parameters = way(ryzen, world.rank)
    expected_losses, expected = way(dist.group.WORLD, world.rank)
    start = list(network().parameters())
    assert max(float((a - b).abs().max()) for a, b in zip(parameters, start, strict=True)) > 1e-3, "it did train"
    assert losses == pytest.approx(expected_losses, abs=1e-12)
    for ours, theirs in zip(parameters, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("later", [False, True], ids=["save", "async_save"])
def test_distributed_checkpoints_come_back_as_they_were(world, ryzen, shared, later):
    model = network()
    fully_shard(model, mesh=DeviceMesh.from_group(ryzen, "cpu"))
    train(model, adam(model.parameters()), world.rank)
    before = [whole(parameter).clone() for parameter in model.parameters()]
    state = {"model": model.state_dict(), "step": torch.tensor(4)}
    if later:
        checkpoint.async_save(state, checkpoint_id=shared / "kept", process_group=ryzen).result()
    else:
        checkpoint.save(state, checkpoint_id=shared / "kept", process_group=ryzen)
    dist.barrier(group=ryzen)
    other = network(5)
    fully_shard(other, mesh=DeviceMesh.from_group(ryzen, "cpu"))
    found = {"model": other.state_dict(), "step": torch.tensor(0)}
    checkpoint.load(found, checkpoint_id=shared / "kept", process_group=ryzen)
    after = [whole(parameter) for parameter in other.parameters()]
    assert found["step"].item() == 4
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
