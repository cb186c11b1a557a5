"""Checkpoints against a full disk, a read-only one, a forgotten close and a kill at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from ryzen_mpi.errors import UserError
from ryzen_mpi.training.checkpoint import CheckpointWriter, find_checkpoints, newest_good

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run_python(source: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_mounted(mount: str, *command: object) -> subprocess.CompletedProcess:
    """Runs `command` where `mount` (options, "tmpfs", mount point) is mounted for it alone."""
    shell = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o {mount} && exec "$@"', "sh", *map(str, command)]
    done = subprocess.run(shell, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(done.stderr)
    return done


def test_states_and_names_that_cannot_be_kept_are_refused_at_once(tmp_path):
    writer = CheckpointWriter(tmp_path, 1)
    with pytest.raises(ValueError, match="plain name"):
        writer.submit(1, {"../model": {}}, {})
    with pytest.raises(ValueError):
        writer.submit(1, {}, {"loss": float("nan")})
    with pytest.raises(UserError, match="keep"):
        CheckpointWriter(tmp_path, 0)
    writer.close()
    assert os.listdir(tmp_path) == []


WRITES_UNTIL_FULL = """
    import resource, sys, torch
    from pathlib import Path
    from ryzen_mpi.errors import UserError
    from ryzen_mpi.training.checkpoint import CheckpointWriter, newest_good
    directory, limit = Path(sys.argv[1]), int(sys.argv[2])
    writer = CheckpointWriter(directory, 1)
    writer.submit(1, {"model": {"w": torch.ones(1000)}}, {})
    writer.wait()
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    writer.submit(2, {"model": {"w": torch.ones(1_000_000)}}, {})
    try:
        writer.submit(3, {"model": {"w": torch.ones(1000)}}, {})
    except UserError as error:
        print(error)
    writer.submit(4, {"model": {"w": torch.full((1000,), 4.0)}}, {})  # goes on once there is room
    writer.close()
    print("newest", newest_good(directory)[0].step, sorted(path.name for path in directory.iterdir()))
"""


def test_a_file_beyond_the_limit_is_told_with_what_it_needs(tmp_path):
    output, _ = run_python(WRITES_UNTIL_FULL, tmp_path, 100_000).communicate(timeout=120)
    assert "step-00000002 does not fit: 3.8 MiB needed" in output and "hint:" in output
    assert "newest 4 ['step-00000004']" in output


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_told_and_leaves_the_old_checkpoint(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(WRITES_UNTIL_FULL))
    disk = tmp_path / "disk"
    disk.mkdir()
    done = run_mounted(f"size=1m tmpfs {disk}", sys.executable, script, disk, 0)
    assert "step-00000002 does not fit: 3.8 MiB needed" in done.stdout, done.stdout + done.stderr
    assert "free (No space left on device)" in done.stdout
    assert "newest 4 ['step-00000004']" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a read-only file system needs root")
def test_a_read_only_directory_is_a_user_error(tmp_path):
    source = f"""
        from pathlib import Path
        from ryzen_mpi.errors import UserError
        from ryzen_mpi.training.checkpoint import CheckpointWriter
        for directory in ("{tmp_path}/new", "{tmp_path}"):
            try:
                writer = CheckpointWriter(Path(directory), 1)
                writer.submit(1, {{}}, {{}})
                writer.wait()
            except UserError as error:
                print(error)
    """
    done = run_mounted(f"ro tmpfs {tmp_path}", sys.executable, "-c", textwrap.dedent(source))
    assert done.stdout.count("cannot be written: Read-only file system") == 2, done.stdout + done.stderr


def test_a_program_that_forgets_to_close_still_finishes_its_checkpoint(tmp_path):
    source = """
        import sys, torch
        from pathlib import Path
        from ryzen_mpi.training.checkpoint import CheckpointWriter
        writer = CheckpointWriter(Path(sys.argv[1]), 1)
        writer.submit(1, {"model": {"w": torch.ones(3_000_000)}}, {})
        raise SystemExit(3)
    """
    process = run_python(source, tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3 and output == ""
    assert newest_good(tmp_path)[0].step == 1


SAVES_FOR_EVER = """
    import itertools, sys, torch
    from pathlib import Path
    from ryzen_mpi.training.checkpoint import CheckpointWriter, newest_good
    directory = Path(sys.argv[1])
    found, _ = newest_good(directory)
    first = found.step if found else 0
    writer = CheckpointWriter(directory, 2)
    tensors = {"model": {"w": torch.empty(50_000)}, "optimizer": {"m": torch.empty(20_000), "v": torch.empty(300)}}
    for step in itertools.count(first):  # the first one replaces what the killed process before had
        for named in tensors.values():
            for tensor in named.values():
                tensor.fill_(step)
        writer.submit(step, tensors, {"step": step})
        if step == first + 2:
            print("going", flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_good_checkpoint(tmp_path):
    chance = random.Random(20)
    for _ in range(20):
        process = run_python(SAVES_FOR_EVER, tmp_path)
        assert process.stdout.readline() == "going\n"
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        checkpoint, damaged = newest_good(tmp_path)
        assert damaged == [] and checkpoint.state == {"step": checkpoint.step}
        for named in checkpoint.tensors.values():
            for tensor in named.values():
                assert torch.equal(tensor, torch.full_like(tensor, checkpoint.step))
    assert len(find_checkpoints(tmp_path)) <= 3
