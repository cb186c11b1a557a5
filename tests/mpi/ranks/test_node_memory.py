"""The memory a node's ranks share: where it lies, what is refused, what it leaves, and what its ledger says."""

import os
import signal
import subprocess
import sys

import pytest
import tiny
import torch

from ryzen_mpi.comm import node_memory
from ryzen_mpi.comm.arena import Locality
from ryzen_mpi.comm.node_memory import CHANGING, MAGIC, PREFIX, WHOLE, NodeMemory, make_file, remove_stale, room
from ryzen_mpi.errors import UserError
from ryzen_mpi.training.zero.node import NodeGround


@pytest.fixture(scope="module")
def locality(world, group):
    found = Locality.discover(world.comm)
    yield found
    found.close()


def files_of(pid, folder="/dev/shm"):
    return [name for name in os.listdir(folder) if name.startswith(f"{PREFIX}{pid}-")]


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_all_ranks_see_what_one_writes_and_nothing_has_a_name(locality):
    memory = NodeMemory(locality.node, locality.comm, room([4000, 80_000]))
    first, second = memory.take(1000, torch.float32), memory.take(10_000, torch.float64, [slice(0, 10_000)])
    assert not first.any() and not second.any()
    locality.node.Barrier()
    rank, ranks = locality.node.rank, locality.node.size
    second[rank::ranks] = rank + 1.0
    locality.node.Barrier()
    assert torch.equal(second, torch.arange(10_000, dtype=torch.float64) % ranks + 1)
    assert not first.any() and not files_of(os.getpid())
    with pytest.raises(ValueError, match="0 bytes left"):
        memory.take(1, torch.uint8)


def test_it_goes_with_its_last_tensor_and_leaves_no_open_file(locality):
    before = open_files()
    memory = NodeMemory(locality.node, locality.comm, room([4000]))
    tensor = memory.take(1000, torch.float32)
    memory.close(), memory.close()
    assert open_files() == before + 1  # the mapping's
    del memory
    tensor.fill_(3.0)
    assert float(tensor.sum()) == 3000.0
    del tensor
    assert open_files() == before


def test_more_than_there_is_is_refused_on_all_ranks_with_what_to_do(locality):
    before = open_files()
    with pytest.raises(UserError) as caught:
        NodeMemory(locality.node, locality.comm, 1 << 50)
    assert (
        "/dev/shm" in caught.value.message and "1024.0 TiB" in caught.value.message and "free" in caught.value.message
    )
    assert "remount,size=" in caught.value.hint and "hardware.shared_folder=DIR" in caught.value.hint
    assert not files_of(os.getpid()) and open_files() == before


def test_pages_that_one_rank_cannot_have_are_an_error_on_all(locality, monkeypatch):
    memory = NodeMemory(locality.node, locality.comm, room([8000]))

    def full(file, offset, size):
        raise OSError(28, "No space left on device")

    if locality.comm.rank == locality.comm.size - 1:
        monkeypatch.setattr(node_memory.os, "posix_fallocate", full)
    with pytest.raises(UserError, match="can't hold the .* ranks share: No space left"):
        memory.take(1000, torch.float64, [slice(0, 1000)])


@pytest.mark.parametrize(("folder", "reason"), [("/no/such/folder", "No such file"), ("/dev/null", "Not a directory")])
def test_a_folder_that_is_none_is_refused_on_all_ranks(world, group, folder, reason):
    settings = tiny.settings(hardware__zero_stage=1, hardware__shared_folder=folder)
    if world.size == 1:  # nothing to share
        tiny.run(tiny.distributed(world, settings, 12), 1)
        return
    with pytest.raises(UserError) as caught:
        tiny.distributed(world, settings, 12)
    assert f"hardware.shared_folder={folder}" in caught.value.message and reason in caught.value.message
    assert "a folder of every node that this user may write to" in caught.value.hint
    assert tiny.same_everywhere(world, [caught.value.message, caught.value.hint])


@pytest.mark.parametrize("stage", [1, 2])
def test_a_folder_on_a_disk_trains_the_same(world, group, shared, stage):
    folders = "/dev/shm", str(shared)
    made = [tiny.settings(hardware__zero_stage=stage, hardware__shared_folder=folder) for folder in folders]
    steps = [tiny.distributed(world, settings, 12) for settings in made]
    for step in steps:
        tiny.run(step)
    assert tiny.fingerprint(steps[0]) == tiny.fingerprint(steps[1])
    assert world.size == 1 or str(shared) in steps[1].strategy.description
    assert not os.listdir(shared)


def test_a_file_whose_maker_was_killed_is_taken_away_and_others_stay(tmp_path):
    code = "import sys, time; from ryzen_mpi.comm.node_memory import make_file; print(make_file(sys.argv[1])[1]);"
    command = [sys.executable, "-c", code + "sys.stdout.flush(); time.sleep(100)", str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    left = child.stdout.readline().strip()
    file, name = make_file(str(tmp_path))
    other = tmp_path / "ryzen-mpi-notes.txt"
    other.touch()
    remove_stale(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, (left, name, other)))
    child.send_signal(signal.SIGKILL)
    child.wait()
    remove_stale(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, (name, other)))
    os.close(file)
    remove_stale(str(tmp_path / "none"))


def test_the_ledger_says_whose_part_is_whole_and_after_how_many_updates(world, group):
    step = tiny.distributed(world, tiny.settings(hardware__zero_stage=2), 12)
    ground = step.strategy.ground
    if not isinstance(ground, NodeGround):
        assert world.size == 1
        return
    rows = ground.memory.rows

    def states():
        world.comm.Barrier()
        found = [(int(row["state"]), int(row["step"])) for row in rows]
        world.comm.Barrier()
        return found

    assert states() == [(WHOLE, 0)] * world.size
    assert rows["rank"].tolist() == list(range(world.size)) and (rows["magic"] == MAGIC).all()
    assert rows["pid"].tolist() == world.exchange.allgather(os.getpid())
    tiny.run(step, 2)
    forward = step.model.forward
    step.model.forward = lambda *inputs: (forward(*inputs)[0] * float("nan"), torch.tensor(0))
    assert step.run().skipped
    step.model.forward = forward
    assert states() == [(WHOLE, 2)] * world.size
    seen = []
    ordinary = step.strategy.optimizer.step

    def watched(*how):
        seen.append((int(rows[world.rank]["state"]), int(rows[world.rank]["step"])))
        ordinary(*how)

    step.strategy.optimizer.step = watched
    tiny.run(step, 1)
    assert seen == [(CHANGING, 3)] and states() == [(WHOLE, 3)] * world.size


def test_a_rank_that_dies_in_an_update_is_seen_to_have_been_changing(world, group):
    step = tiny.distributed(world, tiny.settings(hardware__zero_stage=1), 12)
    tiny.run(step, 2)
    ground, last = step.strategy.ground, world.size - 1

    def dies(*how):
        raise ArithmeticError("planted")

    if world.rank == last:
        step.strategy.optimizer.step = dies
    ground.spread = lambda: None  # the others would wait there for it
    try:
        step.run()
    except ArithmeticError:
        assert world.rank == last
    world.exchange.allgather(0)
    if world.size > 1:
        found = [(int(row["state"]), int(row["step"])) for row in ground.memory.rows]
        assert found == [(WHOLE, 3)] * last + [(CHANGING, 3)]
    world.exchange.allgather(0)


def test_loading_a_checkpoint_is_a_change_that_settling_ends(world, group):
    step = tiny.distributed(world, tiny.settings(hardware__zero_stage=1), 12)
    if world.size == 1:
        return
    row = step.strategy.ground.memory.rows[world.rank]
    step.strategy.load([])
    assert row["state"] == CHANGING
    step.strategy.updates = 17
    step.strategy.settle()
    assert (row["state"], row["step"]) == (WHOLE, 17)
