"""Checkpoints: what was saved comes back, or the damage is named; at every moment there is a good one."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ryzen_mpi.errors import UserError
from ryzen_mpi.training import checkpoint_store
from ryzen_mpi.training.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    DamagedCheckpoint,
    find_checkpoints,
    load_checkpoint,
    newest_good,
    set_aside_newer,
)

STATE = {"seed": 7, "loss": 3.25, "best": None, "note": "Größe", "rng": [1, 2, 3]}


def filled(step: int, size: int = 700) -> checkpoint_store.Tensors:
    """Tensors of several types and shapes that all hold `step`."""
    value = float(step)
    return {
        "model": {"weight": torch.full((size, 3), value), "bias": torch.full((5,), value, dtype=torch.bfloat16)},
        "optimizer": {"count": torch.tensor(step), "empty": torch.empty(0, 4), "m": torch.full((9,), value).double()},
    }


def save(directory: Path, *steps: int, keep: int = 10) -> list[Path]:
    writer = CheckpointWriter(directory, keep)
    for step in steps:
        writer.submit(step, filled(step), STATE | {"step": step})
    writer.close()
    return find_checkpoints(directory)


def assert_holds(checkpoint: Checkpoint, step: int) -> None:
    assert checkpoint.step == step
    for stem, named in filled(step).items():
        assert checkpoint.tensors[stem].keys() == named.keys()
        for name, tensor in named.items():
            loaded = checkpoint.tensors[stem][name]
            assert loaded.dtype == tensor.dtype and torch.equal(loaded, tensor)


def steps_of(directory: Path) -> list[int]:
    return [int(path.name[-8:]) for path in find_checkpoints(directory)]


# -- saving and loading -----------------------------------------------------------------------------------------------


def test_what_was_saved_comes_back(tmp_path):
    (path,) = save(tmp_path, 500)
    assert path == tmp_path / "step-00000500"
    checkpoint = load_checkpoint(path)
    assert_holds(checkpoint, 500)
    assert checkpoint.state == STATE | {"step": 500}
    assert sorted(os.listdir(path)) == ["manifest.json", "model.safetensors", "optimizer.safetensors"]


def test_submit_copies_so_that_training_may_go_on(tmp_path):
    writer = CheckpointWriter(tmp_path, 2)
    tensors, state = filled(1), {"list": [1]}
    for step in (1, 2):  # the second time the copies go into memory used before
        for named in tensors.values():
            for tensor in named.values():
                tensor.fill_(step)
        held_s = writer.submit(step, tensors, state)
        assert 0 <= held_s < 60
        for named in tensors.values():
            for tensor in named.values():
                tensor.fill_(99)
        state["list"].append(step)
    writer.close()
    for step in (1, 2):
        assert_holds(load_checkpoint(tmp_path / f"step-{step:08d}"), step)
    assert load_checkpoint(tmp_path / "step-00000001").state == {"list": [1]}


def test_copies_reuse_their_memory_between_saves(tmp_path):
    writer = CheckpointWriter(tmp_path, 2)
    writer.submit(1, filled(1), {})
    writer.wait()
    first = writer.background._buffers["model"]["weight"].data_ptr()
    writer.submit(2, filled(2), {})
    assert writer.background._buffers["model"]["weight"].data_ptr() == first
    writer.submit(3, filled(3, size=5), {})
    writer.close()
    assert load_checkpoint(tmp_path / "step-00000003").tensors["model"]["weight"].shape == (5, 3)


def test_strided_and_shared_tensors_are_saved(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    parameter = torch.nn.Parameter(base.clone())
    writer = CheckpointWriter(tmp_path, 1)
    writer.submit(1, {"model": {"a": base.t(), "b": base, "tied": base, "p": parameter}}, {})
    writer.close()
    loaded = load_checkpoint(tmp_path / "step-00000001").tensors["model"]
    assert torch.equal(loaded["a"], base.t()) and torch.equal(loaded["tied"], base) and torch.equal(loaded["p"], base)


def test_the_newest_are_kept_and_leftovers_of_the_dead_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    ours, theirs = tmp_path / f".step-00000009.partial-{dead.pid}", tmp_path / f".step-00000009.partial-{os.getppid()}"
    ours.mkdir()
    theirs.mkdir()
    save(tmp_path, 1, 2, 3, 4, 5, keep=2)
    assert steps_of(tmp_path) == [5, 4]
    assert not ours.exists() and theirs.exists()
    assert sorted(os.listdir(tmp_path)) == [theirs.name, "step-00000004", "step-00000005"]


def test_after_a_rollback_the_abandoned_future_does_not_push_out_the_new(tmp_path):
    save(tmp_path, 10, 20, 30, keep=2)
    save(tmp_path, 15, keep=2)
    assert steps_of(tmp_path) == [30, 20, 15]
    assert set_aside_newer(tmp_path, 15, 2) == [20, 30]
    assert steps_of(tmp_path) == [15]


def test_what_a_rollback_left_is_set_aside_whole_and_the_newest_of_it_kept(tmp_path):
    for _ in range(2):
        save(tmp_path, 10, 20, 30)
        assert set_aside_newer(tmp_path, 10, 3) == [20, 30]
    names = sorted(path.name for path in (tmp_path / "set-aside").iterdir())
    assert [name.partition(".")[0] for name in names] == ["step-00000020", "step-00000030", "step-00000030"]
    for path in (tmp_path / "set-aside").iterdir():
        bring_back = tmp_path / path.name.partition(".")[0]
        shutil.copytree(path, bring_back)
        assert_holds(load_checkpoint(bring_back), int(bring_back.name[-8:]))
        shutil.rmtree(bring_back)
    assert sorted(os.listdir(tmp_path)) == ["set-aside", "step-00000010"]


def test_the_same_step_is_replaced(tmp_path):
    save(tmp_path, 7)
    writer = CheckpointWriter(tmp_path, 3)
    writer.submit(7, {"model": {"w": torch.ones(2)}}, {"second": True})
    writer.close()
    assert newest_good(tmp_path)[0].state == {"second": True}
    assert os.listdir(tmp_path) == ["step-00000007"]


def test_a_replacement_killed_between_its_renames_loses_nothing(tmp_path, monkeypatch):
    (path,) = save(tmp_path, 7)
    rename = Path.rename

    def dies(self, target):
        if ".partial-" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoint_store.write_checkpoint(tmp_path, 7, filled(8), {})
    monkeypatch.undo()
    assert not path.exists()
    assert_holds(newest_good(tmp_path)[0], 7)
    save(tmp_path, 8)  # does not take the only copy for a leftover
    assert [load_checkpoint(found).step for found in find_checkpoints(tmp_path)] == [8, 7]


# -- damage -----------------------------------------------------------------------------------------------------------


def cut(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: chance.randrange(1, file.stat().st_size)])


def flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def lengthen(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes() + chance.randbytes(chance.randrange(1, 50)))


def empty(file: Path, chance: random.Random) -> None:
    file.write_bytes(b"")


def remove(file: Path, chance: random.Random) -> None:
    file.unlink()


def exchange(file: Path, chance: random.Random) -> None:
    file.write_bytes(chance.randbytes(file.stat().st_size))


def test_every_damage_is_found_and_its_file_named(tmp_path):
    (good,) = save(tmp_path / "good", 500)
    for seed in range(240):
        chance = random.Random(seed)
        path = tmp_path / "step-00000500"
        shutil.copytree(good, path)
        file = chance.choice(sorted(path.iterdir()))
        damage = chance.choice([cut, flip, flip, flip, lengthen, empty, remove, exchange])
        damage(file, chance)
        with pytest.raises(DamagedCheckpoint) as caught:
            load_checkpoint(path)
        assert caught.value.file == file.name and file.name in str(caught.value), (seed, damage)
        shutil.rmtree(path)


def test_every_part_of_the_manifest_counts(tmp_path):
    (path,) = save(tmp_path, 500)
    manifest = path / "manifest.json"
    content = manifest.read_bytes()
    for bit in range(0, len(content) * 8, 5):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(flipped)
        with pytest.raises(DamagedCheckpoint, match="manifest.json"):
            load_checkpoint(path)


def test_newest_good_goes_on_to_the_one_before(tmp_path):
    newest, middle, _ = save(tmp_path, 1, 2, 3)
    cut(newest / "model.safetensors", random.Random(1))
    shutil.rmtree(middle)
    middle.mkdir()
    checkpoint, damaged = newest_good(tmp_path)
    assert_holds(checkpoint, 1)
    assert [(error.path, error.file) for error in damaged] == [(newest, "model.safetensors"), (middle, "manifest.json")]
    assert newest_good(tmp_path / "nowhere") == (None, [])


def rewritten(path: Path, **changes) -> None:
    """Changes a manifest and makes its checksum right again."""
    content = json.loads((path / "manifest.json").read_bytes()) | changes
    del content["checksum"]
    content["checksum"] = checkpoint_store.checksum(content)
    (path / "manifest.json").write_bytes(checkpoint_store.canonical(content))


@pytest.mark.parametrize("name", ["../m.safetensors", "/etc/x.safetensors", "a/b.safetensors", "m.pt", "..safetensors"])
def test_a_manifest_cannot_point_outside(tmp_path, name):
    (path,) = save(tmp_path, 500)
    rewritten(path, files={name: {"bytes": 1, "sha256": ""}})
    with pytest.raises(DamagedCheckpoint, match="not plainly inside"):
        load_checkpoint(path)


def test_a_newer_format_is_no_damage_and_is_not_passed_over(tmp_path):
    newest, _ = save(tmp_path, 1, 2)
    rewritten(newest, format=2)
    with pytest.raises(UserError, match="format 2") as caught:
        newest_good(tmp_path)
    assert not isinstance(caught.value, DamagedCheckpoint)


@pytest.mark.parametrize(
    "changes", [{"step": "1"}, {"step": 501}, {"state": []}, {"files": []}, {"files": {"a.safetensors": 3}}]
)
def test_a_manifest_that_lacks_something_is_refused(tmp_path, changes):
    (path,) = save(tmp_path, 500)
    rewritten(path, **changes)
    with pytest.raises(DamagedCheckpoint, match="manifest.json"):
        load_checkpoint(path)


def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path):
    (path,) = save(tmp_path, 500)
    (path / "model.safetensors").unlink()
    os.mkfifo(path / "model.safetensors")
    with pytest.raises(DamagedCheckpoint, match="not a file"):
        load_checkpoint(path)
