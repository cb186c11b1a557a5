"""The fence: an attempt that its supervisor has ended can change nothing that others trust."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import Fenced, RunDirectory
from ryzen_mpi.training import checkpoint, checkpoint_store
from ryzen_mpi.training.checkpoint import CheckpointWriter, find_checkpoints, newest_good, set_aside_newer


def tensors(step: int) -> checkpoint_store.Tensors:
    return {"model": {"w": torch.full((1000,), float(step))}}


def attempt(path: Path, epoch: int) -> RunDirectory:
    run = RunDirectory(path, epoch)
    run.open_staging()
    return run


def writer_of(run: RunDirectory, keep: int = 3) -> CheckpointWriter:
    return CheckpointWriter(run.checkpoints, keep, run.staging)


def save(run: RunDirectory, *steps: int, keep: int = 3) -> None:
    writer = writer_of(run, keep)
    for step in steps:
        writer.submit(step, tensors(step), {"by": run.epoch})
    writer.close()


def content(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_epoch_checkpoints_are_prepared_where_they_lie(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.staging == run.checkpoints
    run.check_fence()


def test_an_attempt_leaves_nothing_in_its_folder(tmp_path):
    run = attempt(tmp_path, 3)
    assert run.staging == tmp_path / "checkpoints/.epoch-000003"
    save(run, 1, 2, 3, 4, keep=2)
    run.write_complete({"steps": 4})
    run.remove_complete()
    run.remove_complete()
    assert os.listdir(run.staging) == []
    assert [path.name for path in find_checkpoints(run.checkpoints)] == ["step-00000004", "step-00000003"]
    assert os.listdir(tmp_path) == ["checkpoints"]


def test_training_does_not_make_the_folder_itself(tmp_path):
    run = RunDirectory(tmp_path, 3)
    with pytest.raises(Fenced, match=r"epoch 3\) has been ended by its supervisor: nothing was written"):
        run.check_fence()
    with pytest.raises(Fenced):
        save(run, 1)
    with pytest.raises(Fenced):
        run.write(run.config, "x")
    with pytest.raises(Fenced):
        run.remove_complete()
    assert find_checkpoints(run.checkpoints) == [] and not run.staging.exists() and not run.config.exists()


@pytest.mark.parametrize("moment", ["write_tensors", "_write_manifest", "_put_in_place"])
def test_a_writer_whose_attempt_is_ended_while_it_writes_cannot_commit(tmp_path, monkeypatch, moment):
    stale = attempt(tmp_path, 1)
    save(stale, 1, 2)
    reached, go_on = threading.Event(), threading.Event()
    real = getattr(checkpoint_store, moment)

    def held(*arguments):
        reached.set()
        go_on.wait(20)
        return real(*arguments)

    monkeypatch.setattr(checkpoint_store, moment, held)
    writer = writer_of(stale, keep=1)
    writer.submit(3, tensors(3), {"by": 1})
    assert reached.wait(20)
    stale.close_staging()
    monkeypatch.undo()
    save(attempt(tmp_path, 2), 3)  # its successor has come as far by now
    before = content(tmp_path)
    go_on.set()
    with pytest.raises(Fenced):
        writer.close()
    assert content(tmp_path) == before
    found, damaged = newest_good(stale.checkpoints)
    assert (found.step, found.state, damaged) == (3, {"by": 2}, [])


def test_a_stale_attempt_can_neither_retire_nor_set_aside_nor_replace(tmp_path):
    stale = attempt(tmp_path, 1)
    save(stale, 1, 2, 3)
    writer = writer_of(stale, keep=1)
    stale.close_staging()
    before = content(tmp_path)
    writer._retire(3)
    with pytest.raises(Fenced):
        set_aside_newer(stale.checkpoints, 1, 3, stale.staging)
    writer.submit(3, tensors(9), {})
    with pytest.raises(Fenced):
        writer.close()
    assert content(tmp_path) == before


def test_a_stale_attempt_can_neither_write_nor_remove_the_marker(tmp_path):
    stale = attempt(tmp_path, 1)
    stale.close_staging()
    with pytest.raises(Fenced):
        stale.write_complete({"steps": 1})
    current = attempt(tmp_path, 2)
    current.write_complete({"steps": 1})
    with pytest.raises(Fenced):
        stale.remove_complete()
    assert current.read_complete() == {"steps": 1, "epoch": 2}


def test_the_marker_of_a_complete_run_is_renewed_by_the_attempt_that_finds_it(tmp_path):
    RunDirectory(tmp_path).write_complete({"steps": 1})
    assert RunDirectory(tmp_path).renew_complete() == {"steps": 1, "epoch": None}
    run = attempt(tmp_path, 7)
    run.renew_complete()
    assert run.read_complete() == {"steps": 1, "epoch": 7}
    run.remove_complete()
    assert run.renew_complete() is None and not run.complete.exists()


def test_what_a_killed_rank_was_moving_about_is_not_deleted_with_its_folder(tmp_path):
    run = attempt(tmp_path, 1)
    save(run, 1, 2, 3)
    names = {path.name: path for path in find_checkpoints(run.checkpoints)}
    names["step-00000003"].rename(run.staging / ".step-00000003.replaced-1234")  # being replaced
    names["step-00000002"].rename(run.staging / "step-00000002.20260102-030405")  # on its way to be set aside
    shutil.copytree(names["step-00000001"], run.staging / ".step-00000004.partial-1234")
    run.close_staging()
    run.close_staging()
    assert newest_good(run.checkpoints)[0].step == 3
    assert os.listdir(run.checkpoints / "set-aside") == ["step-00000002.20260102-030405"]
    assert not [name for name in os.listdir(run.checkpoints) if "epoch" in name or "ended" in name]


def test_a_checkpoint_is_replaced_and_one_that_cannot_be_put_in_place_leaves_the_old(tmp_path, monkeypatch):
    run = attempt(tmp_path, 1)
    save(run, 7)
    save(attempt(tmp_path, 2), 7)
    assert newest_good(run.checkpoints)[0].state == {"by": 2}
    rename = Path.rename

    def refused(self, target):
        if ".partial-" in self.name:
            raise PermissionError(13, "planted")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(UserError, match="planted"):
        save(run, 7)
    assert newest_good(run.checkpoints)[0].state == {"by": 2}
    assert os.listdir(run.staging) == []


def test_an_attempt_waits_for_the_lock_of_the_one_before(tmp_path, monkeypatch):
    handle = RunDirectory(tmp_path).lock()
    threading.Timer(0.5, os.close, [handle]).start()
    os.close(RunDirectory(tmp_path, 2).lock())
    handle = RunDirectory(tmp_path).lock()
    monkeypatch.setattr("ryzen_mpi.rundir.PREDECESSOR_S", 0.3)
    began = time.monotonic()
    with pytest.raises(UserError, match="is in use by process"):
        RunDirectory(tmp_path, 3).lock()
    assert time.monotonic() - began >= 0.3
    os.close(handle)


def test_the_fence_of_one_attempt_is_not_that_of_another(tmp_path):
    first, second = attempt(tmp_path, 1), attempt(tmp_path, 2)
    first.close_staging()
    second.check_fence()
    save(second, 5)
    assert checkpoint.newest_good(second.checkpoints)[0].step == 5
