"""The backend as torch.distributed sees it: every collective, dtype, operation, layout and size against a reference."""

import random
import threading
from dataclasses import replace

import calls
import pytest
import reference
import torch
import torch.distributed as dist
from calls import CALLS, Case

from ryzen_mpi.comm.tuning import COLLECTIVES, DEFAULT, MPI_WAY, STAGED, Table

COMPLEX = (torch.complex64, torch.complex128)
WAYS = {way: Table({name: ((1, way),) for name in COLLECTIVES}, "a test") for way in (STAGED, MPI_WAY)}
WAYS["changing"] = Table({name: ((64, STAGED), (4096, MPI_WAY), (5000, STAGED)) for name in COLLECTIVES}, "a test")
SIZES = (0, 1, 7, 16, 65, 300)


@pytest.fixture(params=WAYS)
def way(ryzen, request):
    ryzen.collectives.table = WAYS[request.param]
    yield request.param
    ryzen.collectives.table = DEFAULT


@pytest.fixture
def case(world, ryzen):
    return Case(ryzen, world.rank, world.size)


@pytest.mark.parametrize("name", CALLS)
def test_every_collective_gives_the_reference_for_every_dtype_and_size(case, way, name):
    wrong = []
    for number, dtype in enumerate((*reference.DTYPES, *COMPLEX)):
        for count in SIZES[number % 2 :: 2]:
            wrong += calls.wrong(name, replace(case, dtype=dtype, count=count, root=number % case.size, seed=number))
    assert not wrong, wrong[0]


@pytest.mark.parametrize("name", [name for name in CALLS if "reduce" in name])
def test_every_reduction_does_every_operation(case, way, name):
    wrong = []
    for op in reference.OPS:
        for dtype in (d for d in reference.DTYPES if reference.has_meaning(d, op)):
            wrong += calls.wrong(name, replace(case, dtype=dtype, op=op, root=case.size - 1, seed=len(op)))
    assert not wrong, wrong[0]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
def test_tensors_with_gaps_are_read_and_written_where_they_are(case, way, name, later):
    wrong = []
    for layout in reference.LAYOUTS:
        for count in (1, 12, 900):
            wrong += calls.wrong(name, replace(case, layout=layout, count=count, later=later))
    assert not wrong, wrong[0]


@pytest.mark.parametrize("name", [name for name in CALLS if name != "messages"])
def test_tensors_larger_than_the_stage_are_carried_in_blocks(case, way, name):
    wrong = []
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        wrong += calls.wrong(name, replace(case, dtype=dtype, count=(600 << 10) // dtype.itemsize + 13))
    assert not wrong, wrong[0]


def random_case(draw, case):
    name = draw.choice(list(CALLS))
    dtype = draw.choice((*reference.DTYPES, *COMPLEX))
    op = draw.choice([op for op in reference.OPS if dtype in COMPLEX or reference.has_meaning(dtype, op)])
    count = draw.choice((0, 1, 2, 3, 5, 8, 17, 64, draw.randrange(200), draw.randrange(3000)))
    return name, replace(
        case,
        seed=draw.randrange(1000),
        count=count,
        dtype=dtype,
        op=op,
        layout=draw.choice(reference.LAYOUTS),
        root=draw.randrange(case.size),
        later=draw.random() < 0.3,
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_random_collectives_in_a_row_all_give_the_reference(case, seed):
    draw, wrong = random.Random(seed), []
    for _ in range(1000):
        case.group.collectives.table = WAYS[draw.choice(list(WAYS))]
        name, one = random_case(draw, case)
        wrong += calls.wrong(name, one)
    case.group.collectives.table = DEFAULT
    assert not wrong, f"{len(wrong)}: {wrong[0]}"


def test_overlapping_groups_do_not_disturb_each_other(world, ryzen):
    members = [ranks for ranks in ([0, 1], [1, 2], [0, 2, 3], [3, 1]) if max(ranks) < world.size]
    groups = [(ranks, dist.new_group(sorted(ranks), backend="ryzen")) for ranks in members]
    draw, wrong = random.Random(7), []
    for _ in range(120):
        ranks, group = draw.choice(groups) if groups else ([0], None)
        seed = draw.randrange(1000)
        if group is None or world.rank not in ranks:
            continue
        own = random.Random(seed)
        case = Case(group, sorted(ranks).index(world.rank), len(ranks))
        wrong += calls.wrong(*random_case(own, case))
    dist.barrier(group=ryzen)
    for ranks, group in groups:
        if world.rank in ranks:
            dist.destroy_process_group(group)
    assert not wrong, wrong[0]


def test_two_groups_work_at_once_in_two_threads(world, ryzen):
    groups = [dist.new_group(backend="ryzen") for _ in range(2)]
    wrong: list[str] = []

    def talk(number):
        draw = random.Random(number)
        case = Case(groups[number], world.rank, world.size)
        try:
            for _ in range(150):
                wrong.extend(calls.wrong(*random_case(draw, case)))
        except Exception as error:
            wrong.append(f"thread {number}: {error!r}")

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    alive = [thread.is_alive() for thread in threads]
    dist.barrier(group=ryzen)
    for group in groups:
        dist.destroy_process_group(group)
    assert not any(alive) and not wrong, wrong[:1]


def test_groups_can_be_made_and_given_back_many_times(world, ryzen):
    for number in range(8):
        group = dist.new_group(backend="ryzen")
        tensor = torch.full((1000,), float(world.rank))
        dist.all_reduce(tensor, group=group)
        assert tensor[number] == sum(range(world.size))
        dist.destroy_process_group(group)
