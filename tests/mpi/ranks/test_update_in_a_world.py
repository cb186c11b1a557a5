"""After an update every rank computes with what the owners' masters round to, wherever the owners are."""

import nodes
import pytest
import tiny
import torch
import torch.distributed as dist

from ryzen_mpi.training.zero.ground import PlainGround
from ryzen_mpi.training.zero.sharded import Sharded


@pytest.fixture(params=["ordinary collectives", "one node", "nodes of 1", "nodes of 2"])
def made(request, world, ryzen):
    """A strategy on ordinary collectives, or on the memory of nodes that are pretended where they are several."""
    if request.param == "ordinary collectives":
        yield lambda model, settings, _: Sharded(model, settings, None, PlainGround(None), bucket_bytes=8192)
        return
    with nodes.pretended(world.size if request.param == "one node" else int(request.param[-1])) as group:
        yield lambda model, settings, _: Sharded(model, settings, group, bucket_bytes=8192)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_every_rank_computes_with_the_rounded_masters(world, made, dtype, stage):
    settings = tiny.settings(hardware__zero_stage=stage, hardware__dtype=dtype, training__clip_norm=0.05)
    step = tiny.distributed(world, settings, 12, strategy=made)
    weights, size = step.strategy.ground.weights, step.strategy.layout.size
    for updates in (0, 1, 3):
        tiny.run(step, updates)
        assert torch.equal(weights[:size], tiny.vectors(step)["model"].to(weights.dtype))
    thirds = torch.full((size,), 1 / 3, dtype=step.strategy.ground.state.dtype)
    dist.barrier()  # some may still read what settling changes
    step.strategy.load([("model", 0, thirds)])
    step.strategy.settle()
    assert torch.equal(weights[:size], thirds.to(weights.dtype))
