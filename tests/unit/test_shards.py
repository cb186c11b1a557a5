"""Checkpoints of many writers: what rank 0 does with what the others hand in, or do not."""

from __future__ import annotations

import json
import os
import threading

import pytest
import torch

from ryzen_mpi.errors import UserError
from ryzen_mpi.training import shards
from ryzen_mpi.training.checkpoint import CheckpointWriter, newest_good
from ryzen_mpi.training.shards import ShardWriter, collect, stem


def hand_in(folder, rank, step, value=0.0):
    writer = ShardWriter(folder, rank)
    writer.submit(step, {"model": torch.full((100,), value)})
    writer.close()


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "target"
    path.mkdir()
    return path


def test_files_come_with_the_size_and_hash_their_writers_told(tmp_path, target):
    hand_in(tmp_path, 1, 7), hand_in(tmp_path, 2, 7, 1.0)
    entries = collect(tmp_path, 7, 2, target)
    assert sorted(entries) == sorted(os.listdir(target)) == ["shard-00001.safetensors", "shard-00002.safetensors"]
    assert all(entries[name]["bytes"] == (target / name).stat().st_size for name in entries)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_one_that_comes_late_is_waited_for(tmp_path, target):
    hand_in(tmp_path, 1, 7)
    late = threading.Timer(0.3, hand_in, (tmp_path, 2, 7))
    late.start()
    assert len(collect(tmp_path, 7, 2, target)) == 2
    late.join()


def test_a_shard_that_does_not_come_is_an_error_that_names_its_rank(tmp_path, target, monkeypatch):
    monkeypatch.setattr(shards, "WAIT_S", 0.2)
    hand_in(tmp_path, 1, 7)
    with pytest.raises(OSError, match=r"the shards of ranks 2, 3 did not come in 0.2 s"):
        collect(tmp_path, 7, 3, target)


def test_a_rank_that_could_not_write_fails_the_checkpoint_with_its_words(tmp_path, target, monkeypatch):
    def full(path, tensors):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "write_tensors", full)
    hand_in(tmp_path, 1, 7)
    with pytest.raises(OSError, match=r"rank 1: checkpoint .* does not fit"):
        collect(tmp_path, 7, 1, target)


def test_an_entry_that_is_no_json_is_an_error(tmp_path, target):
    (tmp_path / f".{stem(1)}-00000007.json").write_text("{")
    with pytest.raises(OSError, match="is not JSON"):
        collect(tmp_path, 7, 1, target)


def test_what_was_handed_in_for_a_step_that_failed_is_not_taken_and_goes(tmp_path, target, monkeypatch):
    monkeypatch.setattr(shards, "WAIT_S", 0.2)
    hand_in(tmp_path, 1, 6)
    with pytest.raises(OSError, match="did not come"):
        collect(tmp_path, 7, 1, target)
    hand_in(tmp_path, 1, 7, 7.0)
    assert not list(tmp_path.glob(".shard-*-00000006*"))
    collect(tmp_path, 7, 1, target)
    assert not list(tmp_path.glob(".shard-*"))


def test_a_checkpoint_is_only_there_with_all_its_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "WAIT_S", 0.2)
    writer = CheckpointWriter(tmp_path, 2, shards=1)
    for step, come in ((1, True), (2, False), (3, True)):
        if come:
            hand_in(tmp_path, 1, step, float(step))
        writer.submit(step, {stem(0): {"model": torch.zeros(5)}}, {})
        if come:
            writer.wait()
            assert newest_good(tmp_path)[0].step == step
        else:
            with pytest.raises(UserError, match="ranks 1 did not come"):
                writer.wait()
            assert newest_good(tmp_path)[0].step == 1
    writer.close()
    manifest = json.loads((tmp_path / "step-00000003/manifest.json").read_text())
    assert {stem(0), stem(1)} == {name.partition(".")[0] for name in manifest["files"]}
