"""The other ways torch.distributed is called: futures, coalesced, functional, objects, meshes, messages; and misuse."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch.distributed.device_mesh import DeviceMesh

from ryzen_mpi.comm.tuning import COLLECTIVES, DEFAULT, MPI_WAY, STAGED, Table


@pytest.fixture(params=[STAGED, MPI_WAY])
def way(ryzen, request):
    ryzen.collectives.table = Table({name: ((1, request.param),) for name in COLLECTIVES}, "a test")
    yield request.param
    ryzen.collectives.table = DEFAULT


def total(size):
    return size * (size + 1) / 2


def test_scalars_and_tensors_that_need_gradients_are_reduced_in_place(world, ryzen, way):
    scalar = torch.tensor(world.rank + 1.0)
    leaf = torch.full((4, 2), world.rank + 1.0, requires_grad=True)
    gathered = [torch.zeros(3, requires_grad=True) for _ in range(world.size)]
    dist.all_reduce(scalar, group=ryzen)
    dist.all_reduce(leaf, op=dist.ReduceOp.AVG, group=ryzen)
    dist.all_gather(gathered, torch.full((3,), float(world.rank), requires_grad=True), group=ryzen)
    assert scalar.item() == total(world.size) and scalar.ndim == 0
    assert leaf.grad_fn is None and leaf[0, 0].item() == total(world.size) / world.size
    assert [part[0].item() for part in gathered] == list(range(world.size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_premultiplied_sum_multiplies_before_it_adds(world, ryzen, way, dtype):
    for factor in (0.5, torch.tensor([0.5], dtype=dtype)):
        op = dist._make_nccl_premul_sum(factor)
        tensor = torch.full((5,), 2.0 * (world.rank + 1), dtype=dtype)
        dist.all_reduce(tensor, op=op, group=ryzen)
        part = torch.zeros(3, dtype=dtype)
        given = torch.full((3 * world.size,), 4.0, dtype=dtype)
        dist.reduce_scatter_tensor(part, given, op=op, group=ryzen)
        assert tensor.tolist() == [total(world.size)] * 5 and part.tolist() == [2.0 * world.size] * 3
        assert given.tolist() == [4.0] * given.numel()


def test_work_that_nobody_waited_for_is_done_in_order_and_its_future_holds_the_tensors(world, ryzen):
    tensors = [torch.full((1 + 5000 * i,), world.rank + 1.0) for i in range(6)]
    works = [dist.all_reduce(tensor, group=ryzen, async_op=True) for tensor in tensors]
    futures = [work.get_future().then(lambda done: done.value()[0].sum().item()) for work in works]
    sums = [future.wait() for future in futures]
    last = torch.full((3,), world.rank + 1.0)
    dist.all_reduce(last, group=ryzen)
    assert sums == [total(world.size) * tensor.numel() for tensor in tensors]
    assert all(work.is_completed() and work.is_success() for work in works)
    assert last.tolist() == [total(world.size)] * 3


def test_a_blocking_call_comes_after_those_still_in_line(world, ryzen):
    tensor = torch.ones(2_000_000)
    for _ in range(3):
        dist.all_reduce(tensor, group=ryzen, async_op=True)
    dist.all_reduce(tensor, group=ryzen)
    assert tensor[0] == world.size**4 and tensor[-1] == world.size**4


def test_coalesced_forms_do_all_their_parts(world, ryzen):
    size = world.size
    ones = [torch.full((n,), world.rank + 1.0) for n in (1, 7, 300)]
    with dist._coalescing_manager(group=ryzen):
        for tensor in ones:
            dist.all_reduce(tensor, group=ryzen)
    rooms, parts = [torch.zeros(n * size) for n in (2, 50)], [torch.zeros(n) for n in (2, 50)]
    with dist._coalescing_manager(group=ryzen, async_ops=True) as manager:
        for room, part in zip(rooms, parts, strict=True):
            dist.all_gather_into_tensor(room, part + world.rank, group=ryzen)
    manager.wait()
    with dist._coalescing_manager(group=ryzen):
        for room, part in zip(rooms, parts, strict=True):
            dist.reduce_scatter_tensor(part, room, group=ryzen)
    with dist._coalescing_manager(group=ryzen, device=torch.device("cpu")):
        for tensor in ones:
            dist.broadcast(tensor, 0, group=ryzen)
    many = [torch.full((n,), 1.0) for n in (3, 4)]
    dist.all_reduce_coalesced(many, group=ryzen)
    assert all(tensor.eq(total(size)).all() for tensor in ones)
    assert all(room.view(size, -1)[r].eq(r).all() for room in rooms for r in range(size))
    assert all(part.eq(world.rank * size).all() for part in parts)
    assert all(tensor.eq(size).all() for tensor in many)


def test_objects_travel(world, ryzen):
    everyone = [None] * world.size
    dist.all_gather_object(everyone, {"rank": world.rank, "text": "é" * (1000 * world.rank)}, group=ryzen)
    box = [("from", world.rank), world.rank]
    dist.broadcast_object_list(box, world.size - 1, group=ryzen)
    gathered = [None] * world.size if world.rank == 0 else None
    dist.gather_object(world.rank**2, gathered, dst=0, group=ryzen)
    mine = [None]
    dist.scatter_object_list(mine, [f"for {r}" for r in range(world.size)], src=0, group=ryzen)
    assert [one["rank"] for one in everyone] == list(range(world.size))
    assert len(everyone[-1]["text"]) == 1000 * (world.size - 1)
    assert box == [("from", world.size - 1), world.size - 1] and mine == [f"for {world.rank}"]
    assert gathered is None or gathered == [r**2 for r in range(world.size)]


def test_functional_collectives_work_and_leave_their_inputs(world, ryzen):
    size, mine = world.size, torch.full((2 * world.size, 3), world.rank + 1.0)
    summed = functional.all_reduce(mine, "sum", ryzen)
    average = functional.all_reduce(mine, "avg", ryzen)
    gathered = functional.all_gather_tensor(mine, 0, ryzen)
    columns = functional.all_gather_tensor(mine, 1, ryzen)
    scattered = functional.reduce_scatter_tensor(mine, "sum", 0, ryzen)
    exchanged = functional.all_to_all_single(mine, None, None, ryzen)
    told = functional.broadcast(mine, size - 1, ryzen)
    several = functional.all_reduce_coalesced([mine, mine * 2], "max", ryzen)
    assert mine.eq(world.rank + 1).all()
    assert summed.eq(total(size)).all() and average.eq(total(size) / size).all()
    assert gathered[:, 0].tolist() == [r + 1.0 for r in range(size) for _ in range(2 * size)]
    assert columns.shape == (2 * size, 3 * size) and columns[0].tolist() == [
        r + 1.0 for r in range(size) for _ in "abc"
    ]
    assert scattered.shape == (2, 3) and scattered.eq(total(size)).all()
    assert exchanged[:, 0].tolist() == [r + 1.0 for r in range(size) for _ in range(2)]
    assert told.eq(size).all() and several[1].eq(2 * size).all()


def test_messages_of_any_source_name_it_and_batches_pass_in_both_directions(world, ryzen):
    if world.size == 1:
        return
    if world.rank == 0:
        seen, room = {}, torch.zeros(3)
        for _ in range(world.size - 1):
            source = dist.recv(room, group=ryzen, tag=3)
            seen[source] = room.tolist()
        assert seen == {r: [float(r)] * 3 for r in range(1, world.size)}
    else:
        dist.send(torch.full((3,), float(world.rank)), 0, group=ryzen, tag=3)
    right, left = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    large, room = torch.full((300_000,), float(world.rank)), torch.zeros(300_000)
    pair = [dist.P2POp(dist.isend, large, right, ryzen), dist.P2POp(dist.irecv, room, left, ryzen)]
    for work in dist.batch_isend_irecv(pair):
        work.wait()
    assert room.eq(left).all()
    work = dist.irecv(room, left, group=ryzen)
    future = work.get_future()
    dist.isend(large + 1, right, group=ryzen).wait()
    assert future.wait()[0].eq(left + 1).all()


def test_a_message_of_another_length_is_an_error_that_says_so(world, ryzen):
    if world.size == 1:
        return
    dist.barrier(group=ryzen)
    for count in (2, 9):
        if world.rank == 0:
            dist.send(torch.zeros(count), 1, group=ryzen, tag=count)
        if world.rank == 1:
            with pytest.raises(dist.DistBackendError, match=r"recv of \(float32\[5\]\) from rank 0 with tag"):
                dist.recv(torch.zeros(5), 0, group=ryzen, tag=count)
    dist.barrier(group=ryzen)


def test_a_device_mesh_of_subgroups_reduces_along_its_dimensions(world, ryzen):
    if world.size != 4:
        return
    rows = [dist.new_group(ranks, backend="ryzen") for ranks in ([0, 1], [2, 3])][world.rank // 2]
    columns = [dist.new_group(ranks, backend="ryzen") for ranks in ([0, 2], [1, 3])][world.rank % 2]
    mesh = DeviceMesh.from_group([rows, columns], "cpu", [[0, 1], [2, 3]], mesh_dim_names=("column", "row"))
    sums = []
    for name in ("column", "row"):
        tensor = torch.tensor([float(world.rank)])
        dist.all_reduce(tensor, group=mesh[name].get_group())
        sums.append(tensor.item())
    assert sorted(sums) == sorted([2 * (world.rank // 2) * 2 + 1.0, 2.0 + 2 * (world.rank % 2)])


MISUSE = {
    "reduce_scatter into another dtype": lambda n, g: dist.reduce_scatter_tensor(
        torch.zeros(1000), torch.zeros(1000 * n, dtype=torch.float64), group=g
    ),
    "all_gather into another dtype": lambda n, g: dist.all_gather_into_tensor(
        torch.zeros(1000 * n), torch.zeros(1000, dtype=torch.float64), group=g
    ),
    "all_gather of another size": lambda n, g: dist.all_gather_into_tensor(
        torch.zeros(5 * n + 1), torch.zeros(5), group=g
    ),
    "reduce_scatter of another size": lambda n, g: dist.reduce_scatter_tensor(
        torch.zeros(5), torch.zeros(5 * n + 1), group=g
    ),
    "all_to_all that cannot be divided": lambda n, g: (
        dist.all_to_all_single(torch.zeros(2 * n + 1), torch.zeros(2 * n + 1), group=g) if n > 1 else refuse()
    ),
    "all_to_all with splits that do not add up": lambda n, g: dist.all_to_all_single(
        torch.zeros(2 * n), torch.zeros(2 * n), [2] * n, [3] * n, group=g
    ),
    "scatter of another size": lambda n, g: (
        dist.scatter(torch.zeros(5), [torch.zeros(4)] * n if g.rank() == 0 else None, src=0, group=g)
        if g.rank() == 0 or n == 1
        else refuse()
    ),
    "bitwise operation on floats": lambda n, g: dist.all_reduce(torch.zeros(3), op=dist.ReduceOp.BOR, group=g),
    "sparse tensor": lambda n, g: dist.all_reduce(torch.zeros(3).to_sparse(), group=g),
}


def refuse():
    raise ValueError("nothing wrong here")


@pytest.mark.parametrize("what", MISUSE)
def test_misuse_is_refused_before_memory_is_touched_and_the_group_goes_on(world, ryzen, way, what):
    with pytest.raises((TypeError, ValueError)):
        MISUSE[what](world.size, ryzen)
    tensor = torch.ones(4)
    dist.all_reduce(tensor, group=ryzen)
    assert tensor.tolist() == [world.size] * 4


def test_a_group_tells_torch_who_it_is(world, ryzen):
    assert dist.get_backend(ryzen) == "ryzen" and dist.get_world_size(ryzen) == world.size
    assert dist.get_rank(ryzen) == world.rank
    assert dist.get_process_group_ranks(ryzen) == list(range(world.size))
    dist.barrier(group=ryzen, timeout=timedelta(seconds=30))
    dist.barrier(group=ryzen, async_op=True).wait()
