"""Collectives on tensors of an arena: against a reference, compiled against plain, on one node and pretended ones."""

import resource
import time

import numpy as np
import pytest
import reference
import torch
import torch.distributed as dist

from ryzen_mpi.comm.across import add_up
from ryzen_mpi.comm.arena import Arena, Locality
from ryzen_mpi.comm.dtypes import reduction
from ryzen_mpi.comm.plain import slice_of
from ryzen_mpi.comm.region import _kernel

SLOT_BYTES = 4 << 20
SIZES = (0, 1, 7, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4099)
NODES = {"one node": None, "nodes of 1": 1, "nodes of 2": 2, "nodes of 3": 3}
ENGINES = {"compiled": False, "plain": True}


@pytest.fixture(scope="module", params=NODES)
def locality(world, request):
    found = Locality.discover(world.comm, NODES[request.param])
    yield found
    found.close()


@pytest.fixture(scope="module", params=ENGINES)
def arena(locality, request):
    arena = Arena(locality, SLOT_BYTES, 60.0, plain=ENGINES[request.param])
    yield arena
    arena.close()


@pytest.fixture
def node_arena(world):
    """An arena of the real node, for one test."""
    locality = Locality.discover(world.comm)
    arena = Arena(locality, SLOT_BYTES, 60.0)
    yield arena
    arena.close()
    locality.close()


def sizes_of(op, arena):
    return SIZES if op == "sum" and not arena.plain else (7, 65, 1000)


def at_the_start(arena, count, dtype):
    """Memory at the beginning of the slot: tests share an arena, which only ever gives out."""
    arena.barrier()  # nobody looks at what was there any more
    arena.used = 0
    return arena.empty(count, dtype)


def of_all(world, kind, seed, count, dtype):
    return [kind(seed, rank, count, dtype) for rank in range(world.size)]


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_all_reduce_gives_the_reference_for_every_operation_and_size(world, arena, dtype):
    wrong = []
    room = at_the_start(arena, SIZES[-1], dtype)
    for op in filter(lambda op: reference.has_meaning(dtype, op), reference.OPS):
        for count in sizes_of(op, arena):
            tensor = room[:count]
            parts = of_all(world, reference.small, count, count, dtype)
            tensor.copy_(parts[world.rank])
            arena.all_reduce(tensor, op)
            if not reference.same_bits(tensor, reference.reduced(parts, op)):
                wrong.append((op, count))
    assert not wrong


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_reduce_scatter_then_all_gather_is_all_reduce(world, arena, dtype):
    wrong, room = [], at_the_start(arena, SIZES[-1], dtype)
    for op in filter(lambda op: reference.has_meaning(dtype, op), ("sum", "avg", "max")):
        for count in sizes_of(op, arena) if arena.locality.even else ():
            tensor = room[:count]
            parts = of_all(world, reference.small, count + 1, count, dtype)
            expected = reference.reduced(parts, op)
            tensor.copy_(parts[world.rank])
            shard, mine = arena.reduce_scatter(tensor, op), arena.shard_of(count, dtype)
            if not reference.same_bits(shard, expected[mine]) or shard.data_ptr() != tensor[mine].data_ptr():
                wrong.append(("reduce_scatter", op, count))
            arena.barrier()  # so that nobody overwrites what another still compares
            kept = shard.clone()
            tensor.zero_()
            tensor[mine] = kept
            arena.all_gather(tensor)
            if not reference.same_bits(tensor, expected):
                wrong.append(("all_gather", op, count))
    assert not wrong


def test_uneven_nodes_refuse_reduce_scatter_and_all_gather_everywhere(world, arena):
    if arena.locality.even:
        return
    tensor = at_the_start(arena, 100, torch.float32)
    with pytest.raises(ValueError, match="same number of ranks"):
        arena.reduce_scatter(tensor)
    with pytest.raises(ValueError, match="same number of ranks"):
        arena.all_gather(tensor)
    arena.barrier()  # and the arena is of use still


def test_broadcast_reaches_all_from_every_root(world, arena):
    wrong = []
    for root in range(world.size):
        for dtype in (torch.bool, torch.bfloat16, torch.float32, torch.float64, torch.complex64):
            room = at_the_start(arena, SIZES[-1], dtype)
            for count in (0, 1, 65, 257, 4099):
                tensor = room[:count]
                values = reference.small(count, root, count, torch.float32).to(dtype)
                tensor.copy_(values if world.rank == root else torch.zeros(count).to(dtype))
                arena.broadcast(tensor, root)
                if not torch.equal(tensor, values):
                    wrong.append((root, dtype, count))
    assert not wrong


def test_a_tensor_of_several_pieces_is_reduced_like_one(world, arena, monkeypatch):
    arena.barrier()
    count, piece = 2 * 4096 + 77, 4 * 4096
    monkeypatch.setattr("ryzen_mpi.comm.arena.PIECE_BYTES", piece)
    large = Arena(arena.locality, count * 4, 60.0, plain=arena.plain)
    tensor, parts = large.empty(count, torch.float32), of_all(world, reference.wild, 3, count, torch.float32)
    tensor.copy_(parts[world.rank])
    large.all_reduce(tensor)
    if arena.locality.nodes == 1:
        right = reference.same_bits(tensor, reference.reduced(parts, "sum"))
    else:  # nodes are added up first: another order
        right = torch.equal(tensor.isnan(), reference.reduced(parts, "sum").isnan())
    everyone = world.exchange.allgather(reference.digest(tensor))
    large.close()
    assert right and len(set(everyone)) == 1


@pytest.mark.parametrize("shape", [(6, 50), (50, 6), (1, 300), (3, 1, 100), ()], ids=str)
def test_tensors_of_any_shape_are_reduced_element_by_element(world, arena, shape):
    count = int(np.prod(shape, dtype=int))
    parts = of_all(world, reference.small, 5, count, torch.float32)
    tensor = at_the_start(arena, count, torch.float32)
    tensor.copy_(parts[world.rank])
    arena.all_reduce(tensor.view(shape))
    assert torch.equal(tensor, reference.reduced(parts, "sum"))
    arena.broadcast(tensor.view(shape), world.size - 1)
    assert torch.equal(tensor, reference.reduced(parts, "sum"))


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_compiled_and_plain_give_the_same_bits_for_any_input(world, locality, dtype):
    if _kernel is None:
        pytest.fail("the kernel is not built: this test compares nothing")
    both = [Arena(locality, 1 << 16, 60.0, plain=plain) for plain in (False, True)]
    assert [arena.plain for arena in both] == [False, True]
    wrong, rooms = [], [arena.empty(4099, dtype) for arena in both]
    for op in filter(lambda op: reference.has_meaning(dtype, op), reference.OPS):
        for count in (17, 1000, 4099):
            results = []
            for tensor, arena in zip((room[:count] for room in rooms), both, strict=True):
                tensor.copy_(reference.wild(count, world.rank, count, dtype))
                arena.all_reduce(tensor, op)
                results.append(tensor.clone())
            if not reference.same_bits(*results):
                wrong.append((op, count))
    for arena in both:
        arena.close()
    assert not wrong


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("sources", [1, 2, 3, 4, 5, 9])
def test_the_compiled_addition_equals_the_plain_one_for_any_number_of_sources(world, dtype, sources):
    if world.size > 1:
        return  # one rank has seen it
    wrong = []
    for op in filter(lambda op: reference.has_meaning(dtype, op), reference.OPS):
        for count in (1, 15, 257, 2000):
            parts = [reference.wild(sources, rank, count, dtype) for rank in range(sources)]
            results = [torch.empty(count, dtype=dtype) for _ in range(2)]
            for target, plain in zip(results, (False, True), strict=True):
                add_up(parts, target, reduction(dtype, op, sources), plain)
            if not reference.same_bits(*results):
                wrong.append((op, count, "plain"))
            if not reference.same_bits(results[0], reference.reduced(parts, op)):
                wrong.append((op, count, "reference"))
    assert not wrong


def test_the_same_inputs_give_the_same_bits_at_any_timing(world, locality):
    arena, count, seen = Arena(locality, SLOT_BYTES, 60.0), 50_001, set()
    random = np.random.default_rng(world.rank)  # every rank dawdles at other places
    tensor = arena.empty(count, torch.float32)
    for _ in range(12):
        tensor.copy_(reference.wild(1, world.rank, count, torch.float32).nan_to_num(posinf=1.0, neginf=1.0))
        time.sleep(random.random() * 0.005)
        arena.all_reduce(tensor)
        time.sleep(random.random() * 0.002)
        seen.add(reference.digest(tensor))
    everyone = world.exchange.allgather(sorted(seen))
    arena.close()
    assert len(seen) == 1 and everyone == [sorted(seen)] * world.size


def test_tensors_of_one_arena_do_not_touch_each_other(world, node_arena):
    dtypes = (torch.float32, torch.bool, torch.float64, torch.bfloat16, torch.int8)
    tensors = [node_arena.empty(1 + 999 * i, dtype) for i, dtype in enumerate(dtypes)]
    parts = [of_all(world, reference.small, i, t.numel(), t.dtype) for i, t in enumerate(tensors)]
    for tensor, values in zip(tensors, parts, strict=True):
        assert not tensor.any(), "memory of an arena begins as zero"
        tensor.copy_(values[world.rank])
    node_arena.barrier()
    for i in (3, 0, 4, 1, 2):
        node_arena.all_reduce(tensors[i])
    for tensor, values in zip(tensors, parts, strict=True):
        assert reference.same_bits(tensor, reference.reduced(values, "sum"))


def test_shards_cover_a_tensor_without_overlap(world, locality):
    arena = Arena(locality, 1 << 16, 60.0)
    slices = [[arena.shard_of(count, torch.bfloat16), arena.slice_of(count, torch.bfloat16)] for count in SIZES]
    everyone = world.exchange.allgather([[[s.start, s.stop] for s in pair] for pair in slices])
    arena.close()
    for index, count in enumerate(SIZES):
        if locality.even:
            owned = sorted(i for rank in everyone for i in range(*rank[index][0]))
            assert owned == list(range(count))
        here = [rank for rank, (node, _) in enumerate(locality.places) if node == locality.places[world.rank][0]]
        assert sorted(i for rank in here for i in range(*everyone[rank][index][1])) == list(range(count))


def test_an_arena_that_is_too_small_says_how_much_is_left(world, node_arena):
    node_arena.empty(SLOT_BYTES - 8192, torch.uint8)
    with pytest.raises(ValueError, match="8192 bytes left in a slot, not the 8196 of 2049 elements of torch.float32"):
        node_arena.empty(2049, torch.float32)
    node_arena.empty(2048, torch.float32)
    node_arena.barrier()


def test_a_tensor_from_elsewhere_or_with_gaps_is_refused(world, node_arena):
    tensor = node_arena.empty(100, torch.float32)
    for other in (torch.zeros(100), tensor[::2], tensor.view(10, 10).t()):
        with pytest.raises(ValueError, match="does not lie in this arena"):
            node_arena.all_reduce(other)
    with pytest.raises(TypeError, match="needs bool or integers"):
        node_arena.all_reduce(tensor, "bxor")
    with pytest.raises(TypeError, match="there are avg, sum"):
        node_arena.all_reduce(tensor, "median")
    node_arena.barrier()


def test_every_slice_is_first_touched_by_the_rank_that_adds_it_up(world, node_arena):
    pages, page = 256, resource.getpagesize()
    count = pages * page // 4
    mine = slice_of(count, 4, world.rank, world.size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensor = node_arena.empty(count, torch.float32)
    touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    if world.size == 1:
        return  # memory of one's own, which may have been touched before
    own = (mine.stop - mine.start) * 4 // page * world.size  # our slice, in every slot
    assert own - 8 <= touched <= own + 40 + own // 4, (touched, own)
    node_arena.all_reduce(tensor)


def test_tensors_of_a_group_s_arena_are_reduced_where_they_lie(world, ryzen):
    arena = ryzen.arena(SLOT_BYTES)
    used: list[str] = []
    plain_all_reduce, plain_broadcast = arena.all_reduce, arena.broadcast
    arena.all_reduce = lambda *args: (used.append("all_reduce"), plain_all_reduce(*args))
    arena.broadcast = lambda *args: (used.append("broadcast"), plain_broadcast(*args))
    try:
        tensor = arena.empty(1000, torch.float64).view(10, 100)
        parts = of_all(world, reference.small, 9, 1000, torch.float64)
        tensor.copy_(parts[world.rank].view(10, 100))
        dist.all_reduce(tensor, group=ryzen)
        whole = reference.reduced(parts, "sum").view(10, 100)
        right = [torch.equal(tensor, whole)]
        work = dist.all_reduce(tensor[3:5], op=dist.ReduceOp.MAX, group=ryzen, async_op=True)
        work.wait()
        right.append(torch.equal(tensor, whole))
        tensor += world.rank
        dist.broadcast(tensor, world.size - 1, group=ryzen)
        right.append(torch.equal(tensor, whole + world.size - 1))
    finally:
        ryzen.collectives.arenas.remove(arena)
        arena.close()
    assert all(right)
    assert used == (["all_reduce", "all_reduce", "broadcast"] if world.size > 1 else [])
