"""The main job with ZeRO: killed and gone on with at another stage and rank count, and on nodes with little room."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from launch import (
    Job,
    checkpoint_steps,
    metrics,
    mpirun,
    overrides,
    planted,
    refused_with,
    run,
    train,
)

from ryzen_mpi.config import Settings
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.checkpoint_reading import newest_good
from ryzen_mpi.training.flat import Layout
from ryzen_mpi.training.state import read_stretches
from ryzen_mpi.training.strategy import VECTORS

STEPS = 40


def words(*more, **changes):
    return [*overrides(training__max_steps=STEPS, training__global_batch=12, **changes), *more]


def vectors(path):
    """Weights and moments of the newest checkpoint, by name."""
    checkpoint, damaged = newest_good(path / "checkpoints")
    assert checkpoint.step == STEPS and not damaged
    layout = Layout.of(Transformer(Settings.model_validate(checkpoint.state["settings"])))
    found = {name: torch.zeros(layout.size, dtype=torch.float64) for name in VECTORS}
    for name, begin, values in read_stretches(checkpoint, layout):
        found[name][begin : begin + values.numel()] = values
    return found


def in_shared_memory():
    return [name for name in os.listdir("/dev/shm") if name.startswith("ryzen-mpi-")]


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_killed_run_goes_on_at_another_stage_and_rank_count_even_where_a_shard_is_lost(tmp_path):
    run(mpirun(2, *train(tmp_path / "plain", *words())), tmp_path).succeeded()
    expected, losses = vectors(tmp_path / "plain"), metrics(tmp_path / "plain")["training/loss"]

    stage_2 = words("hardware.zero_stage=2")
    job = Job(mpirun(4, *planted(tmp_path / "run", *stage_2)), tmp_path, PLANTED="sleep:0.03")
    job.wait_for(lambda: max(checkpoint_steps(tmp_path / "run"), default=0) >= 20)
    job.kill()
    assert not in_shared_memory()
    newest, before = checkpoint_steps(tmp_path / "run")[:2]
    folder = f"checkpoints/step-{newest:08d}"
    assert len(list((tmp_path / "run" / folder).glob("shard-*.safetensors"))) == 4

    shutil.copytree(tmp_path / "run", tmp_path / "missing")
    spoil(tmp_path / "run" / folder / "shard-00002.safetensors")
    (tmp_path / "missing" / folder / "shard-00003.safetensors").unlink()
    for name, file, ranks, stage in (("run", "shard-00002", 3, 1), ("missing", "shard-00003", 2, 0)):
        path = tmp_path / name
        gone_on = run(mpirun(ranks, *train(path, *words(f"hardware.zero_stage={stage}"))), tmp_path).succeeded()
        assert gone_on.err.count(f"step-{newest:08d}: {file}.safetensors") == 1, gone_on.said()
        assert (path / "COMPLETE.json").exists() and "Error" not in gone_on.err, gone_on.said()
        steps = metrics(path)
        assert steps["training/step"].tolist() == list(range(1, STEPS + 1)) and before < newest
        assert np.abs(steps["training/loss"] - losses).max() < 1e-11
        held = vectors(path)
        for vector in VECTORS:
            assert float((held[vector] - expected[vector]).abs().max()) < 1e-11, (name, vector)
    assert not in_shared_memory()


def with_little_shared_memory(mount, size, command):
    """`command` where `mount` has `size` bytes of memory, for it alone."""
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    found = ["unshare", "--mount", "sh", "-c", script, str(mount), *command]
    if subprocess.run([*found[:6], "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    return found


# about 100 MB of master weights and moments: more than the 64 MiB that containers get
LARGER = dict(model__vocab_size=32768, model__embedding_dim=96, model__seq_length=8, training__batch_size=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_too_little_shared_memory_is_refused_once_and_a_folder_on_a_disk_is_a_way_out(tmp_path):
    common = overrides(**LARGER, training__max_steps=2, training__eval_samples=2)
    common += ["data.source=random", "data.num_samples=50", "hardware.zero_stage=2"]
    command = with_little_shared_memory("/dev/shm", "64m", mpirun(2, *train(tmp_path / "run", *common)))
    refused = run(command, tmp_path)
    refused_with(refused, "hardware.shared_folder=/dev/shm on ")
    for part in ("MiB that 2 ranks share", "MiB free", "remount,size=1G", "--shm-size", "hardware.shared_folder=DIR"):
        assert part in refused.err, refused.said()
    disk = tmp_path / "disk"
    disk.mkdir()
    taken = run([*command, f"hardware.shared_folder={disk}"], tmp_path).succeeded()
    assert (tmp_path / "run/COMPLETE.json").exists() and not os.listdir(disk), taken.said()


def test_a_folder_that_is_not_there_is_refused_once(tmp_path):
    more = words("hardware.zero_stage=1", "hardware.shared_folder=/no/such/folder")
    refused_with(run(mpirun(2, *train(tmp_path / "run", *more)), tmp_path), "/no/such/folder on ")
