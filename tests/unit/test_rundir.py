"""The run directory: one process at a time, and files that are whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import RunDirectory, new_run_path, write_atomic

HOLD = """
import sys
from pathlib import Path
from ryzen_mpi.rundir import RunDirectory
RunDirectory(Path(sys.argv[1])).lock()
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_kept_out_and_told_who_holds_the_directory(tmp_path, holder):
    with pytest.raises(UserError, match=f"in use by process {holder.pid} on {os.uname().nodename}"):
        RunDirectory(tmp_path).lock()


def test_the_lock_goes_with_its_process_however_that_ends(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    handle = RunDirectory(tmp_path).lock()
    assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
    os.close(handle)


def test_a_lock_does_not_pass_to_what_the_process_starts(tmp_path):
    handle = RunDirectory(tmp_path).lock()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    os.close(handle)
    try:
        os.close(RunDirectory(tmp_path).lock())
    finally:
        child.communicate(b"\n")


def test_a_lock_that_can_not_be_opened_is_a_user_error(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="can't be locked"):
        RunDirectory(tmp_path).lock()


def test_a_directory_that_can_not_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written") as caught:
        RunDirectory(tmp_path / "file/run").create()
    assert "--run-dir" in caught.value.hint


def test_create_makes_the_directory_and_leaves_nothing_in_it(tmp_path):
    run = RunDirectory(tmp_path / "a/b")
    run.create()
    run.create()
    assert list(run.path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "\x00"])
def test_a_missing_or_damaged_summary_counts_as_none(tmp_path, content):
    run = RunDirectory(tmp_path)
    if content is not None:
        run.complete.write_text(content)
    assert run.read_complete() is None
    run.complete.write_bytes(b"\xff\xfe")
    assert run.read_complete() is None


def test_a_whole_summary_is_read(tmp_path):
    write_atomic(RunDirectory(tmp_path).complete, '{"steps": 5}')
    assert RunDirectory(tmp_path).read_complete() == {"steps": 5}


def test_a_new_run_path_is_new_and_named_after_the_profile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "20260102-030405")
    first = new_run_path("/etc/my profile.yaml")
    assert first == Path("runs/20260102-030405-my-profile")
    first.mkdir(parents=True)
    assert new_run_path("my profile") == Path("runs/20260102-030405-my-profile-2")


WRITE = """
import sys
from pathlib import Path
from ryzen_mpi.rundir import write_atomic
turn = 0
while True:
    turn += 1
    write_atomic(Path(sys.argv[1]), str(turn % 10) * 300_000)
    if turn == 3:
        print("going", flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "x.json"
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        for _ in range(200):  # while it writes, too
            text = path.read_text()
            assert len(text) == 300_000 and len(set(text)) == 1
        writer.kill()
        writer.communicate()
        text = path.read_text()
        assert len(text) == 300_000 and len(set(text)) == 1


def test_text_that_can_not_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new" * 10_000 + "\udcff")
    assert path.read_text() == "old"
