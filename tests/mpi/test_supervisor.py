"""Runs under a supervisor to which something happens: real ranks, real signals, and the end that was meant."""

import json
import re
import signal

import psutil
import pytest
from launch import (
    LIMIT_S,
    Job,
    checkpoint_bytes,
    checkpoint_steps,
    metrics,
    mpirun,
    of_action,
    overrides,
    planted,
    run,
    train,
)
from supervised import gone, ranks, records, said, summary, supervise, supervised

from ryzen_mpi.supervisor.attempt import LAUNCHER_S

STEPS, INTERVAL, TIMEOUT_S = 240, 20, 3.0
SEEN_S = 2.0
"""The issue's limit for a crash; for a hang it is the timeout and HUNG_S."""
HUNG_S = 5.0
WORDS = overrides(
    training__max_steps=STEPS,
    training__save_interval=INTERVAL,
    training__batch_size=None,
    training__global_batch=12,
    data__num_samples=12 * STEPS,
    distributed__timeout_s=TIMEOUT_S,
)
SLOW = "sleep:0.02"
"""Between a checkpoint's step and the fault there is time to write it."""


def undisturbed(folder, count):
    """A run that nobody disturbs or supervises: final parameters."""
    run(mpirun(count, *train(folder / "run", *WORDS)), folder).succeeded()
    assert (parameters := checkpoint_bytes(folder / "run", STEPS))
    return parameters


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("three"), 3)


def came_through(path, job, expected):
    """Asserts what holds after every recovery; returns the attempts that ended in a fault."""
    job.succeeded()
    gone(path)
    attempts = records(path)
    assert attempts[-1]["end"] == "complete"
    assert json.loads((path / "COMPLETE.json").read_text())["epoch"] == attempts[-1]["epoch"] == len(attempts)
    assert not (path / "FAILED.json").exists()
    assert checkpoint_bytes(path, STEPS) == expected, "the parameters are not those of an undisturbed run"
    assert metrics(path)["training/step"].tolist() == list(range(1, STEPS + 1))
    began = [attempt for attempt in attempts if attempt["resumed"] >= 0]
    for before, after in zip(began, began[1:], strict=False):
        assert before["step"] - after["resumed"] <= INTERVAL, (before, after)
    account = summary(path)
    faults = [attempt for attempt in attempts if attempt["end"] == "fault"]
    assert (account["attempts"], account["faults"], account["steps"]) == (len(attempts), len(faults), STEPS)
    assert 0 < account["ettr"] <= 1 and account["productive_s"] <= account["total_s"]
    assert not list((path / "checkpoints").glob(".e*")), "staging folders are left"
    assert not list((path / "supervisor").glob("attempt-*")), "the guards' plans are left"
    return faults


def at(job, path, step):
    """Waits until a checkpoint of `step` or a later one is there."""
    job.wait_for(lambda: max(checkpoint_steps(path), default=0) >= step)


def all_ranks(job, path, count):
    """The ranks, once the attempt that runs has all of them and they train: it has saved something new."""
    step = max(checkpoint_steps(path), default=0)
    at(job, path, step + INTERVAL)
    found = ranks(path)
    assert sorted(found) == list(range(count)), job.said()
    return found


# -- ranks that break -------------------------------------------------------------------------------------------------


def test_every_rank_may_crash_raise_or_hang_and_the_run_ends_as_if_nothing_had_been(three, tmp_path):
    faults = "kill#1:0@35 raise#2:1@75 segv#3:2@115 gil#4:1@155"
    job = supervised(tmp_path / "run", 3, *planted(None, *WORDS), PLANTED=f"{SLOW} {faults}").wait(2 * LIMIT_S)
    attempts = came_through(tmp_path / "run", job, three)
    faults = [
        *(("killed", 0, 34, "SIGKILL"), ("failed", 1, 74, "does not add up"), ("killed", 2, 114, "SIGSEGV")),
        ("lost", 1, 154, "rank 1 on .* did not come in 3 s"),
    ]
    told = said(tmp_path / "run", "fault")
    for attempt, event, (cause, rank, step, evidence) in zip(attempts, told, faults, strict=True):
        assert (attempt["cause"], event["rank"], attempt["step"]) == (cause, rank, step), (attempt, job.said())
        assert re.search(evidence, attempt["evidence"]), attempt
        # a rank that waited for the hung one had waited for the timeout before it was lost
        limit_s = HUNG_S if cause == "lost" else SEEN_S
        assert event["seen_s"] == attempt["seen_s"] <= limit_s, attempt
    assert summary(tmp_path / "run")["causes"] == {"killed": 2, "failed": 1, "lost": 1}


def test_a_stopped_rank_two_killed_at_once_and_a_killed_launcher(two, tmp_path):
    path = tmp_path / "run"
    job = supervised(path, 2, *planted(None, *WORDS), PLANTED=SLOW)
    all_ranks(job, path, 2)[1].send_signal(signal.SIGSTOP)
    at_once = all_ranks(job, path, 2)
    for rank in at_once.values():
        rank.kill()
    all_ranks(job, path, 2)
    (launcher,) = (p for p in psutil.Process(job.process.pid).children() if "mpirun" in p.name() or "prte" in p.name())
    launcher.kill()
    job.wait()
    faults = came_through(path, job, two)
    assert [a["cause"] for a in faults] == ["stopped", "killed", "launcher"], job.said()
    assert faults[0]["seen_s"] <= TIMEOUT_S + HUNG_S and "rank 1" in faults[0]["evidence"]
    assert faults[1]["seen_s"] <= SEEN_S and faults[2]["seen_s"] <= SEEN_S
    assert job.left == []  # of the killed launcher


# -- launchers that lie -----------------------------------------------------------------------------------------------

LIAR = """\
#!/bin/bash
trap '' TERM INT
if [ ! -e {half_gone} ]; then
    {mpirun} "$@" &
    until [ -e {half_gone} ]; do sleep 0.1; done
    exit 0
fi
{mpirun} "$@"
while :; do sleep 0.2; done
"""


def test_a_launcher_that_exits_0_with_half_of_the_ranks_gone_and_one_that_does_not_end(two, tmp_path):
    path, half_gone = tmp_path / "run", tmp_path / "half-gone"
    real, *words = mpirun(2, *planted(None, *WORDS))
    liar = tmp_path / "mpirun"
    liar.write_text(LIAR.format(half_gone=half_gone, mpirun=real))
    liar.chmod(0o755)
    job = Job(supervise(path, [str(liar), *words]), tmp_path, PLANTED=f"{SLOW} kill#2:0@115")
    rank = all_ranks(job, path, 2)[1]
    family = [rank, rank.parent(), rank.parent().parent()]  # its guard, and what stands in front of that: nobody tells
    half_gone.touch()
    for process in family:
        process.kill()
    job.wait()
    half, killed = came_through(path, job, two)
    # what became of rank 1 is known only when its lease is over, as it would be of one on another host
    assert half["cause"] == "silent" and "rank 1" in half["evidence"], half
    assert killed["cause"] == "killed" and killed["seen_s"] <= SEEN_S, killed
    assert killed["ended_s"] >= LAUNCHER_S, "the launcher that does not end was not waited for"


# -- a fault that nothing helps against -------------------------------------------------------------------------------


def test_a_run_that_fails_every_time_is_given_up_with_advice_and_goes_on_once_it_is_mended(two, tmp_path):
    path = tmp_path / "run"
    words = planted(None, *WORDS)
    job = supervised(path, 2, *words, options=("--retries", "1"), PLANTED="raise:1@5").wait()
    assert job.code == 1, job.said()
    gone(path)
    marker = json.loads((path / "FAILED.json").read_text())
    assert marker["epoch"] == 2 == len(records(path)) and "does not add up" in marker["why"], marker
    assert f"giving up: {marker['why']}" in job.err and f"what to do: {marker['advice']}" in job.err, job.said()
    assert "start again" in marker["advice"] and "run: failed" in job.err.replace(str(path), "run"), job.said()
    assert not (path / "COMPLETE.json").exists()
    assert {a["cause"] for a in records(path)} == {"failed"} and summary(path)["ettr"] == 0
    job = supervised(path, 2, *words, PLANTED="sleep:0").wait()
    assert len(came_through(path, job, two)) == 2


def test_the_run_directory_of_another_model_is_refused_once(tmp_path):
    path = tmp_path / "run"
    few = ("training.max_steps=20", "training.save_interval=10")
    run(mpirun(1, *train(path, *WORDS, *few)), tmp_path).succeeded()
    job = supervised(path, 2, *train(None, *WORDS, "model.num_layers=2")).wait(60)
    assert job.code in (1, 2) and "num_layers" in job.err and "Traceback" not in job.err, job.said()
    assert job.err.count("error: run directory") <= 1, job.said()
    assert len(records(path)) == 1 and records(path)[0]["cause"] == "refused", job.said()
    gone(path)


# -- the supervisor itself --------------------------------------------------------------------------------------------


def test_a_supervisor_that_is_interrupted_and_one_that_is_killed_are_followed_by_others(two, tmp_path):
    path = tmp_path / "run"
    words = planted(None, *WORDS)
    job = supervised(path, 2, *words, PLANTED=SLOW)
    all_ranks(job, path, 2)
    job.process.send_signal(signal.SIGINT)
    job.wait()
    assert job.code == 75 and "start again with --run-dir" in job.err and not (path / "COMPLETE.json").exists()
    (stopped,) = records(path)
    assert stopped["end"] == "stopped" and stopped["step"] == stopped["saved"] == max(checkpoint_steps(path))
    gone(path)
    assert (path / "supervisor/.lock").exists()  # of a dead process: it harms nobody

    job = supervised(path, 2, *words, PLANTED=SLOW)
    at(job, path, stopped["step"] + 2 * INTERVAL)
    second = run(supervise(path, mpirun(2, *words)), tmp_path, 30)
    told = f"is supervised already, by process {job.process.pid} on"
    assert second.code == 2 and second.err.count("error:") == 1 and told in second.err, second.said()
    left_at = max(checkpoint_steps(path))
    job.process.kill()
    job.wait()
    gone(path)
    assert not (path / "COMPLETE.json").exists()

    job = supervised(path, 2, *words, PLANTED=SLOW).wait()
    assert came_through(path, job, two) == []
    first, left, last = records(path)
    assert (first["end"], left["end"]) == ("stopped", "left") and "was left by another supervisor" in job.err
    began = [event["ryzen"]["step"] for event in of_action(path, 0, "start")]
    assert began == [0, first["step"], last["resumed"]] and last["resumed"] >= left_at
