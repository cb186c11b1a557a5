"""A process group over several nodes, which are pretended (`nodes.py`)."""

import nodes
import pytest
import torch
import torch.distributed as dist

from ryzen_mpi.comm import collectives
from ryzen_mpi.comm.region import PEER_ERRORS

SIZES = (1, 7, 4096, 100_003)


@pytest.fixture(params=[1, 2, 3])
def pretended(request, ryzen):
    with nodes.pretended(request.param) as group:
        yield group


def drawn(rank, count, dtype=torch.float64):
    return torch.randint(-9, 9, (count,), generator=torch.Generator().manual_seed(1000 * rank + count)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
def test_ordinary_tensors_are_reduced_over_all_nodes(world, pretended, dtype):
    for count in SIZES:
        data = drawn(world.rank, count, dtype)
        dist.all_reduce(data, group=pretended)
        assert torch.equal(data, sum(drawn(rank, count, dtype) for rank in range(world.size))), count


def test_a_tensor_larger_than_the_stage_passes_in_pieces(world, pretended):
    count = (18 << 20) // 8
    data = torch.full((count,), world.rank + 1.0, dtype=torch.float64)
    dist.all_reduce(data, op=dist.ReduceOp.AVG, group=pretended)
    assert (data == (world.size + 1) / 2).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32])
@pytest.mark.parametrize("op", ["SUM", "AVG", "PRODUCT", "MAX"])
def test_sums_in_parts_are_those_of_mpi(world, pretended, monkeypatch, dtype, op):
    found = []
    for tree_bytes in (0, 1 << 30):
        monkeypatch.setattr(collectives, "TREE_BYTES", tree_bytes)
        found.append(drawn(world.rank, 100_003, dtype))
        dist.all_reduce(found[-1], op=getattr(dist.ReduceOp, op), group=pretended)
    assert torch.equal(*found)


def test_moves_and_scattered_sums_reach_all_nodes(world, pretended):
    everyone = [drawn(rank, 12 * world.size) for rank in range(world.size)]
    mine = everyone[world.rank].clone()
    gathered = torch.empty(world.size, 12 * world.size, dtype=torch.float64)
    dist.all_gather_single(gathered, mine, group=pretended)
    assert torch.equal(gathered, torch.stack(everyone))
    part = torch.empty(12, dtype=torch.float64)
    dist.reduce_scatter_single(part, mine, group=pretended)
    assert torch.equal(part, sum(everyone).view(world.size, 12)[world.rank])
    dist.broadcast(mine, group=pretended, group_src=world.size - 1)
    assert torch.equal(mine, everyone[-1])
    dist.barrier(group=pretended)


def test_tensors_of_an_arena_are_reduced_where_they_lie(world, pretended):
    arena = pretended.arena(1 << 20)
    data = arena.empty(100_003, torch.float32)
    data.copy_(drawn(world.rank, 100_003, torch.float32))
    address = data.data_ptr()
    dist.all_reduce(data, group=pretended)
    assert torch.equal(data, sum(drawn(rank, 100_003, torch.float32) for rank in range(world.size)))
    assert data.data_ptr() == address


def test_errors_name_a_rank_as_the_group_counts_not_as_its_node_does(world, pretended):
    node = pretended.collectives.locality.places[world.rank][0]
    mates = [rank for rank, (where, _) in enumerate(pretended.collectives.locality.places) if where == node]
    if len(mates) == 1:  # nobody to disagree with
        return
    arena = pretended.arena(1 << 16)
    data = arena.empty(100, torch.float32)
    engine = arena.engine
    with pytest.raises(PEER_ERRORS) as caught:  # the node's ranks alone, and no two want the same
        engine.broadcast(0, data.nbytes - 4 * mates.index(world.rank), 0)
    reason, peer = caught.value.args
    assert reason in ("mismatch", "gave up") and peer in mates and peer != world.rank
