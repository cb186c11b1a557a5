"""`ryzen-mpi resize` and `ryzen-mpi rollback`: what they ask, what they answer, and how they are left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from ryzen_mpi.commands import resize, rollback
from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.supervisor import requests
from ryzen_mpi.supervisor.files import Files


@pytest.fixture
def files(tmp_path):
    """Of a run that this process supervises."""
    found = Files(RunDirectory(tmp_path / "run"))
    handle = found.lock()
    yield found
    os.close(handle)


def asked(files: Files, limit_s: float = 20.0) -> requests.Request:
    """The request that somebody makes."""
    end = time.monotonic() + limit_s
    while not (found := requests.pending(files)):
        assert time.monotonic() < end
        time.sleep(0.01)
    (request,) = found
    return request


def answered(files: Files, command, words: list[str], done: bool, text: str, after_s: float = 0.0):
    """Runs `command` and has it answered; returns its result and what was asked."""
    taken = []

    def supervise() -> None:
        taken.append(asked(files))
        time.sleep(after_s)
        requests.answer(files, taken[0], done, text)

    thread = threading.Thread(target=supervise)
    thread.start()
    result = CliRunner().invoke(command, [str(files.run.path), *words])
    thread.join()
    return result, taken[0]


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        (resize.command, ["4"], ("resize", 4, None, "")),
        (resize.command, ["4", "--why", "room"], ("resize", 4, None, "room")),
        (rollback.command, ["--why", "x"], ("rollback", None, None, "x")),
        (rollback.command, ["--why", "x", "--processes", "2", "--to", "0"], ("rollback", 2, 0, "x")),
    ],
)
def test_what_is_asked_is_what_was_typed_and_the_answer_is_printed(files, command, words, expected):
    result, request = answered(files, command, words, True, "4 ranks train from step 20")
    assert (request.kind, request.ranks, request.step, request.why) == expected
    assert (result.exit_code, result.stdout) == (0, "4 ranks train from step 20\n")


def test_a_refusal_is_an_error(files):
    result, _ = answered(files, resize.command, ["4"], False, "there are 4 ranks already")
    assert isinstance(result.exception, UserError) and str(result.exception) == "there are 4 ranks already"


def test_while_it_waits_it_says_so(files, monkeypatch):
    monkeypatch.setattr(resize, "TELL_EVERY_S", 0.3)
    result, _ = answered(files, resize.command, ["4"], True, "done", after_s=1.5)
    assert result.stderr.count("waiting for the supervisor's answer") >= 2 and result.stdout == "done\n"


def test_ctrl_c_leaves_the_request_and_says_so(files):
    words = [sys.executable, "-m", "ryzen_mpi", "resize", str(files.run.path), "4"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        request = asked(files)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == 130 and "the request stays" in said and "Traceback" not in said
    assert requests.pending(files) == [request]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (resize.command, ["0"]),
        (resize.command, ["-1"]),
        (resize.command, ["many"]),
        (resize.command, []),
        (rollback.command, []),
        (rollback.command, ["--why", "x", "--processes", "0"]),
        (rollback.command, ["--why", "x", "--to", "-1"]),
    ],
)
def test_what_makes_no_sense_is_not_asked(files, command, words):
    assert CliRunner().invoke(command, [str(files.run.path), *words]).exit_code == 2
    assert requests.pending(files) == []


def test_a_directory_that_is_not_there_or_that_nobody_supervises_is_named(tmp_path):
    for path, told in ((tmp_path / "none", "there is no run directory"), (tmp_path, "no supervisor is at work on")):
        result = CliRunner().invoke(resize.command, [str(path), "2"])
        assert isinstance(result.exception, UserError) and f"{told} {path}" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
