"""The guard as it runs: a real process around a small program, and a real listener that it reports to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ryzen_mpi.supervisor.listener import Listener

EPOCH, RANK, BEAT_S, LEASE_S = 4, 3, 0.05, 1.0
LIMIT_S = 20.0

# A rank in a few lines: says what it is told to, and counts the signals it is sent in a file.
RANK_PROGRAM = """\
import os, signal, sys, time
from ryzen_mpi.beacon import epoch, open_beacon
def count(number, frame):
    with open(sys.argv[1], "a") as file:
        file.write(f"{signal.Signals(number).name} ")
open(sys.argv[1], "a").close()
signal.signal(signal.SIGUSR1, count)
beacon = open_beacon()
beacon.beat("train", step=10)
beacon.beat(step=12, saved=10, trained_s=0.5)
assert epoch() == 4
"""
FOR_EVER = RANK_PROGRAM + "while True: time.sleep(0.01); beacon.beat()"


class Guarded:
    """A started guard."""

    def __init__(self, listener: Listener, folder: Path, words: list[str]) -> None:
        self.listener, self.signals = listener, folder / "signals"
        plan = folder / "plan.json"
        listener.plan.write(plan)
        command = [sys.executable, "-m", "ryzen_mpi.supervisor.guard", str(plan), "--", *words]
        self.front = subprocess.Popen(
            command,
            env=os.environ | {"PMIX_RANK": str(RANK)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def report(self, condition, limit_s: float = LIMIT_S):
        """The first report that `condition` holds for."""
        end = time.monotonic() + limit_s
        while True:
            pulse = self.listener.pulses().get(RANK)
            if pulse is not None and condition(pulse.report):
                return pulse.report
            assert time.monotonic() < end, pulse
            time.sleep(0.01)

    def child(self) -> psutil.Process:
        """The program, once it trains."""
        return psutil.Process(self.report(lambda r: r.phase == "train").pid)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.front.pid).children(recursive=True)


def dead(processes, limit_s: float = LIMIT_S) -> None:
    """Asserts that all of `processes` end."""
    assert not psutil.wait_procs(processes, timeout=limit_s)[1]


@pytest.fixture
def start(tmp_path):
    """Starts guards; ends what the test leaves of them."""
    guards = []

    @contextmanager
    def start(program: str = FOR_EVER, words: list[str] | None = None):
        with Listener(EPOCH, ["127.0.0.1"], BEAT_S, LEASE_S) as listener:
            words = words or [sys.executable, "-c", program, str(tmp_path / "signals")]
            guards.append(Guarded(listener, tmp_path, words))
            yield guards[-1]

    yield start
    for guard in guards:
        for process in guard.family() if guard.front.poll() is None else []:
            process.kill()
        guard.front.kill()
        guard.front.wait()
        guard.front.stderr.close()


def test_what_the_rank_says_is_reported_and_its_exit_code_passed_on(start):
    with start(RANK_PROGRAM + "beacon.tell('complete', 'all done'); sys.exit(7)") as guard:
        assert guard.front.wait(LIMIT_S) == 7
        report = guard.report(lambda r: r.ended is not None)
    assert (report.epoch, report.rank, report.resumed, report.step, report.saved) == (EPOCH, RANK, 10, 12, 10)
    assert (report.phase, report.text, report.ended, report.why) == ("complete", "all done", 7, "")
    assert report.trained_s == 0.5 and report.host == os.uname().nodename


def test_a_stopped_rank_is_reported_as_stopped_and_as_running_again(start):
    with start() as guard:
        child = guard.child()
        child.suspend()
        report = guard.report(lambda r: r.state == "T" and r.stopped_s > 0.2)
        assert report.quiet_s > 0.1
        child.resume()
        assert guard.report(lambda r: r.state != "T" and r.beats > report.beats).stopped_s == 0


def test_a_rank_that_holds_the_interpreters_lock_is_seen_not_to_move(start):
    with start(RANK_PROGRAM + "import ctypes; ctypes.PyDLL(None).sleep(1000)") as guard:
        assert guard.report(lambda r: r.quiet_s > 0.5).state == "S"


def test_a_killed_rank_is_told_of(start):
    with start() as guard:
        guard.child().kill()
        report = guard.report(lambda r: r.ended is not None)
        assert (report.ended, report.why, report.step) == (-9, "", 12)
        assert guard.front.wait(LIMIT_S) == 128 + 9


def test_a_guard_that_is_not_answered_ends_its_rank_when_its_lease_lapses(start):
    with start() as guard:
        child = guard.child()
        family = guard.family()
        guard.report(lambda r: r.unanswered_s < LEASE_S / 2)
        alive = time.monotonic()
        time.sleep(2 * LEASE_S)
        assert child.is_running(), "it ended although it was answered"
    silent = time.monotonic()
    dead(family)
    assert time.monotonic() - silent < LEASE_S + 2 and silent - alive > LEASE_S
    assert "the supervisor was not heard for 1 s" in guard.front.stderr.read()


def test_the_order_to_stop_reaches_the_rank_once(start):
    with start() as guard:
        guard.child()
        guard.listener.order("stop")
        first = guard.report(lambda r: guard.signals.read_text() != "")
        guard.listener.order("stop")
        guard.report(lambda r: r.number > first.number + 5)  # each was answered with the order
        assert guard.signals.read_text() == "SIGUSR1 "


def test_signals_of_a_launcher_are_passed_on_to_the_rank(start):
    with start() as guard:
        guard.child()
        guard.front.send_signal(signal.SIGUSR1)
        guard.report(lambda r: guard.signals.read_text() == "SIGUSR1 ")


def test_the_order_to_die_ends_even_a_stopped_rank(start):
    with start() as guard:
        guard.child().suspend()
        guard.report(lambda r: r.state == "T")
        family = guard.family()
        guard.listener.order("die")
        report = guard.report(lambda r: r.ended is not None)
        assert (report.ended, report.why) == (-9, "told to")
        assert guard.front.wait(LIMIT_S) == 128 + 9
        dead(family)


def test_when_the_launcher_kills_what_it_started_the_rank_dies_and_the_guard_still_tells(start):
    with start() as guard:
        guard.child()
        family = guard.family()
        os.killpg(guard.front.pid, signal.SIGKILL)  # as mpirun does it
        report = guard.report(lambda r: r.ended is not None)
        assert (report.ended, report.why) == (-9, "its launcher ended it")
        dead(family)


def test_a_rank_does_not_outlive_its_guard(start):
    with start() as guard:
        child = guard.child()
        (behind,) = psutil.Process(guard.front.pid).children()
        behind.kill()
        dead([child])
        assert guard.front.wait(LIMIT_S) != 0


def test_a_program_that_does_not_exist_is_named(start):
    with start(words=["no-such-program"]) as guard:
        assert guard.front.wait(LIMIT_S) == 127
        assert guard.front.stderr.read() == "ryzen_mpi: no-such-program: No such file or directory\n"


@pytest.mark.parametrize("content", [None, "", "[1]", '{"epoch": 1}'])
def test_a_plan_that_cannot_be_read_is_named(tmp_path, content):
    plan = tmp_path / "plan"
    if content is not None:
        plan.write_text(content)
    words = [sys.executable, "-m", "ryzen_mpi.supervisor.guard", str(plan), "--", "true"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2 and str(plan) in done.stderr and "Traceback" not in done.stderr


def test_without_a_program_it_says_how_it_is_used():
    words = [sys.executable, "-m", "ryzen_mpi.supervisor.guard", "plan"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2 and done.stderr.startswith("usage:")


def test_a_guard_imports_nothing_but_the_standard_library_and_this_package():
    code = "import sys, ryzen_mpi.supervisor.guard; print(' '.join({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    loaded = {name for name in done.stdout.split() if not name.startswith("_")}
    assert loaded - set(sys.stdlib_module_names) == {"ryzen_mpi"}
