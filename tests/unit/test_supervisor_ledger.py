"""The account of a run: what was kept, what was trained again, and the share of time that counted."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.supervisor.account import Account
from ryzen_mpi.supervisor.attempt import Attempt
from ryzen_mpi.supervisor.job import Job
from ryzen_mpi.supervisor.launcher import Command
from ryzen_mpi.supervisor.ledger import STEPS_FOR_P99, Record, Track, summarise
from ryzen_mpi.supervisor.listener import Listener, Pulse
from ryzen_mpi.supervisor.nodes import ThisMachine
from ryzen_mpi.supervisor.state import State, load_state
from ryzen_mpi.supervisor.watch import Limits
from ryzen_mpi.supervisor.wire import Report


def pulses(**changes: object) -> dict[int, Pulse]:
    return {0: Pulse(Report(1, 0, "n1", 9, **changes), {"127.0.0.1": 0.0})}


def track(*points: tuple[int, float, int], resumed: int = 0) -> Track:
    """One that was told (step, seconds trained, saved step), one after the other."""
    found = Track()
    for step, trained_s, saved in points:
        found.take(pulses(resumed=resumed, step=step, trained_s=trained_s, saved=saved, phase="train"), 1, 100.0)
    return found


# -- one attempt ------------------------------------------------------------------------------------------------------


def test_a_track_holds_what_was_told_last_and_when_it_began_to_train():
    found = Track()
    found.take({}, 1, 1.0)
    found.take(pulses(), 1, 2.0)
    assert (found.resumed, found.step, found.saved, found.first_step_s, found.imported_s) == (-1, -1, -1, None, None)
    found.take(pulses(phase="connect"), 1, 3.0)
    found.take(pulses(phase="train", resumed=40, step=40), 1, 4.0)
    assert (found.imported_s, found.first_step_s) == (3.0, None)
    found.take(pulses(phase="train", resumed=40, step=42, trained_s=0.5, saved=40), 1, 5.0)
    found.take(pulses(phase="save", resumed=40, step=42, trained_s=0.5), 1, 6.0)
    assert (found.resumed, found.step, found.saved, found.first_step_s) == (40, 42, 40, 5.0)
    assert found.trained_s == 0.5


def test_time_up_to_a_step_is_that_of_the_steps_seen_and_between_them_in_proportion():
    found = track((10, 1.0, -1), (20, 3.0, -1))
    assert [found.trained_until(step) for step in (0, 5, 10, 15, 20, 30)] == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]
    found = track((110, 1.0, -1), (120, 3.0, -1), resumed=100)
    assert [found.trained_until(step) for step in (50, 100, 105, 115)] == [0.0, 0.0, 0.5, 2.0]


def test_what_is_forgotten_of_the_path_does_not_change_time_after_the_last_save():
    found = track((10, 1.0, -1), (20, 3.0, 10), (30, 4.0, 20), (40, 8.0, 30))
    assert [found.trained_until(step) for step in (30, 35, 40)] == [4.0, 6.0, 8.0]


def test_the_99th_percentile_waits_for_enough_steps():
    points = [(step, 0.1 * step, -1) for step in range(1, STEPS_FOR_P99 + 1)]
    assert track(*points).step_p99_s() == 0.0  # the first point tells of no step's time
    assert track(*points, (STEPS_FOR_P99 + 1, 0.1 * (STEPS_FOR_P99 + 1), -1)).step_p99_s() == pytest.approx(0.1)
    slow = [(step + 1, 0.1 * step + (5.0 if step > 50 else 0.0), -1) for step in range(100)]
    assert track(*slow).step_p99_s() == pytest.approx(5.1)


class Guards:
    """A listener whose only rank is killed in step 115 and is heard again when it is told to end."""

    told = 112

    def order(self, what: str) -> None:
        self.told = 114

    def pulses(self) -> dict[int, Pulse]:
        return pulses(resumed=0, step=self.told, trained_s=0.1 * self.told, phase="train", ended=-9)


def test_steps_between_the_last_beat_and_the_end_count():
    attempt = Attempt(Guards(), ["true"], 1, Limits(), lambda: False)
    attempt.launch({})
    attempt.process.wait()
    outcome = attempt.poll()
    assert (outcome.fault.kind, attempt.track.step) == ("killed", 112)
    attempt.end(outcome)
    assert attempt.track.step == 114 and attempt.track.trained_s == pytest.approx(11.4)


# -- all of them ------------------------------------------------------------------------------------------------------


def test_two_faults_worked_out_by_hand():
    # 57 steps of 0.1 s, 50 of them saved; 43 + 30 more, 100 of them saved; then to the end
    records = [
        Record(1, 4, {}, 0.0, resumed=0, step=57, saved=50, trained_s=5.7, kept_s=5.0, end="fault", cause="killed"),
        Record(2, 4, {}, 0.0, end="fault", cause="launcher"),  # never trained
        Record(3, 4, {}, 0.0, resumed=50, step=130, saved=100, trained_s=8.0, kept_s=5.0, end="fault", cause="killed"),
        Record(4, 4, {}, 0.0, resumed=100, step=200, saved=200, trained_s=10.0, kept_s=10.0, end="complete"),
    ]
    found = summarise(records, 40.0)
    assert (found.attempts, found.faults, found.causes) == (4, 3, {"killed": 2, "launcher": 1})
    assert (found.steps, found.repeated) == (200, 7 + 30)
    assert (found.productive_s, found.ettr) == (20.0, 0.5)


def test_no_attempts_and_no_time_are_no_error():
    found = summarise([], 0.0)
    assert (found.attempts, found.steps, found.repeated, found.ettr) == (0, 0, 0, 0.0)


class Supervised:
    """An account that is told of attempts that nobody made: its clock is a number."""

    def __init__(self, path, monkeypatch) -> None:
        nodes = ThisMachine()
        job = Job(RunDirectory(path), Command(("mpirun",), 2, ("python",)), nodes, None, 1, 5, Limits())
        job.files.folder.mkdir(parents=True)
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.account = Account(job, State())
        self.records = self.account.state.records

    def attempt(self, resumed: int, steps: int, step_s: float = 0.1, start_s: float = 1.0) -> None:
        """One that starts for `start_s`, and trains `steps` steps from `resumed` on (-1: it never trains)."""
        record = Record(len(self.records) + 1, 1, {}, 0.0)
        self.records.append(record)
        with Listener(record.epoch, ["127.0.0.1"], 0.5, 10.0) as listener:
            attempt = Attempt(listener, [], 1, Limits(), lambda: False)
            attempt.launched_s = self.now
            self.now += start_s
            for done in range(steps + 1 if resumed >= 0 else 0):
                told = {"resumed": resumed, "step": resumed + done, "trained_s": done * step_s, "phase": "train"}
                attempt.track.take(pulses(**told), 1, self.now)
                self.now += step_s if done < steps else 0.0
            self.account.note(attempt, record)
            self.account._track = record.epoch, attempt.track


def test_what_is_trained_again_is_not_kept_and_an_attempt_that_never_trained_changes_nothing(tmp_path, monkeypatch):
    run = Supervised(tmp_path, monkeypatch)
    run.attempt(0, 57)
    run.attempt(-1, 0)
    run.attempt(50, 80)
    run.attempt(100, 100)
    assert [record.kept_s for record in run.records] == pytest.approx([5.0, 0.0, 5.0, 10.0])
    summary = run.account.summary()
    assert (summary.total_s, summary.productive_s) == pytest.approx((5.7 + 8 + 10 + 4, 20.0))


def test_a_rollback_undoes_all_attempts_back_to_its_checkpoint(tmp_path, monkeypatch):
    run = Supervised(tmp_path, monkeypatch)
    for resumed in (0, 100, 200):
        run.attempt(resumed, 100)
    run.attempt(50, 10)
    assert [record.kept_s for record in run.records] == pytest.approx([5.0, 0.0, 0.0, 1.0])
    assert run.account.summary().repeated == 250


def test_a_persons_choice_of_a_checkpoint_is_carried_out_once_whoever_supervises_then(tmp_path, monkeypatch):
    run = Supervised(tmp_path, monkeypatch)
    kept = run.account.files.state
    run.account.state.resume = "checkpoints/step-00000050"
    run.attempt(50, 0)  # it loaded it and trained nothing: the next has to do it again
    assert load_state(kept).resume == "checkpoints/step-00000050"
    run.attempt(50, 3)
    assert load_state(kept).resume is None


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.booleans(), st.floats(0, 3)), min_size=1, max_size=6))
def test_the_share_of_time_that_counted_is_never_more_than_all_of_it(history):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        run, reached = Supervised(Path(folder), patch), 0
        for share, steps, trains, start_s in history:
            resumed = int(share * reached) if trains else -1
            run.attempt(resumed, steps, start_s=start_s)
            reached = max(0, resumed) + steps if trains else reached
        summary = run.account.summary()
        assert 0 <= summary.ettr <= 1 + 1e-9 and summary.productive_s == pytest.approx(0.1 * reached)
