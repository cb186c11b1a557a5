"""How the main job ends: saves that fail, signals that ask it to stop, and what its guard and supervisor see of it."""

import json
import mmap
import os
import signal
import subprocess

import launch
import pytest
from launch import Job, checkpoint_steps, mpirun, of_action, overrides, planted, refused_with, run, train

from ryzen_mpi.beacon import SIZE, read_beacon
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.training.checkpoint_reading import newest_good

# -- saves that fail --------------------------------------------------------------------------------------------------


def test_checkpoints_that_cannot_be_written_end_the_job_with_the_reason_alone(tmp_path):
    words = overrides(training__max_steps=100_000)
    job = run(mpirun(2, *planted(tmp_path / "run", *words)), tmp_path, 60, PLANTED="spoil:0@15")
    assert job.code == 2 and job.err.count("error:") == 1 and "Traceback" not in job.err, job.said()
    assert job.err.count("cannot be written") == 2, job.said()  # warned of at step 20, the end of the job at step 30
    assert not (tmp_path / "run/COMPLETE.json").exists()
    for rank in range(2):
        (failure,) = of_action(tmp_path / "run", rank, "failure")
        assert (failure["ryzen"]["end"], failure["ryzen"]["step"]) == ("refused", 30)


def test_a_checkpoint_that_does_not_fit_is_told_and_the_next_one_saved(tmp_path):
    words = overrides(training__keep_checkpoints=10)
    job = run(mpirun(2, *planted(tmp_path / "run", *words)), tmp_path, PLANTED="full:20 sleep:0.01").succeeded()
    assert job.err.count("step-00000020 does not fit") == 1 and "tried again at the next save" in job.err, job.said()
    assert checkpoint_steps(tmp_path / "run") == [40, 30, 10]
    (event,) = of_action(tmp_path / "run", 0, "checkpoint_failed")
    assert event["ryzen"]["step"] == 20 and "no space" in event["message"]
    assert (tmp_path / "run/COMPLETE.json").exists()


def test_a_run_whose_last_state_cannot_be_saved_is_not_complete(tmp_path):
    job = run(mpirun(2, *planted(tmp_path / "run", *overrides())), tmp_path, PLANTED="full:40")
    assert job.code == 2 and job.err.count("error:") == 1 and "Traceback" not in job.err, job.said()
    assert job.err.count("step-00000040 does not fit") == 2, job.said()  # the last one is tried again before giving up
    assert not (tmp_path / "run/COMPLETE.json").exists()
    assert checkpoint_steps(tmp_path / "run") == [30, 20, 10]
    run(mpirun(2, *train(tmp_path / "run", *overrides())), tmp_path).succeeded()
    assert checkpoint_steps(tmp_path / "run") == [40, 30, 20] and (tmp_path / "run/COMPLETE.json").exists()


# -- asked to stop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "stopped_after"), [("evaluate:1@20", {21}), ("writing:20 sleep:0.02", range(21, 29))]
)
def test_a_signal_in_an_evaluation_or_while_a_checkpoint_is_written_stops_at_the_next_step(
    fault, stopped_after, tmp_path
):
    words = overrides(training__max_steps=300, training__eval_interval=20, training__keep_checkpoints=10)
    job = run(mpirun(2, *planted(tmp_path / "run", *words)), tmp_path, PLANTED=fault).succeeded()
    stopped = int(job.out.split("stopped by SIGUSR1 after step ")[1].split()[0])
    assert stopped in stopped_after, job.said()
    assert checkpoint_steps(tmp_path / "run") == [stopped, 20, 10]
    assert not newest_good(tmp_path / "run/checkpoints")[1]
    for rank in range(2):
        (event,) = of_action(tmp_path / "run", rank, "stop")
        assert (event["ryzen"]["signal"], event["ryzen"]["step"]) == ("SIGUSR1", stopped)
        assert 0 <= event["ryzen"]["saved_after_s"] < 60
    assert not (tmp_path / "run/COMPLETE.json").exists()


def test_a_signal_after_the_last_step_lets_the_run_complete(tmp_path):
    job = run(mpirun(2, *planted(tmp_path / "run", *overrides())), tmp_path, PLANTED="evaluate:1@40").succeeded()
    assert "stopped" not in job.out and (tmp_path / "run/COMPLETE.json").exists(), job.said()


def test_a_signal_while_the_data_is_prepared_ends_all_ranks_at_once(tmp_path):
    job = Job(mpirun(2, *planted(tmp_path / "run", *overrides())), tmp_path, PLANTED="prepare:100")
    job.wait_for((tmp_path / "run/preparing").exists)
    job.process.send_signal(signal.SIGUSR1)
    job.wait(60)
    refused_with(job, "stopped by SIGUSR1 before the first step")
    for rank in range(2):
        (event,) = of_action(tmp_path / "run", rank, "stop")
        assert event["ryzen"]["phase"] == "data"


# -- under a supervisor -----------------------------------------------------------------------------------------------


def attempt(path, epoch, *words, cwd):
    """Training on one rank as the guard of attempt `epoch` starts it; returns the process and what it said last."""
    descriptor = os.memfd_create("beacon")
    os.ftruncate(descriptor, SIZE)
    variables = {"RYZEN_MPI_BEACON": str(descriptor), "RYZEN_MPI_EPOCH": str(epoch)}
    command = mpirun(1, *train(path, *overrides(), *words))
    environment = launch.environment(**variables)
    done = subprocess.run(command, cwd=cwd, env=environment, pass_fds=[descriptor], capture_output=True, text=True)
    with mmap.mmap(descriptor, SIZE) as memory:
        reading = read_beacon(memory)
    os.close(descriptor)
    return done, reading


def test_an_attempt_is_followed_through_its_beacon_and_vouches_for_its_marker(tmp_path):
    path = tmp_path / "run"
    RunDirectory(path, 1).open_staging()
    done, reading = attempt(path, 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (reading.phase, reading.step, reading.saved) == ("complete", 40, 40) and reading.beats > 80
    assert reading.trained_s > 0
    marker = json.loads((path / "COMPLETE.json").read_text())
    assert marker["epoch"] == 1 and os.listdir(path / "checkpoints/.epoch-000001") == []
    RunDirectory(path, 1).close_staging()

    RunDirectory(path, 2).open_staging()  # complete already: the next attempt says so, as its own
    done, reading = attempt(path, 2, cwd=tmp_path)
    assert done.returncode == 0 and reading.phase == "complete", done.stderr
    assert json.loads((path / "COMPLETE.json").read_text()) == marker | {"epoch": 2}
    RunDirectory(path, 2).close_staging()

    done, reading = attempt(path, 2, cwd=tmp_path)  # and one that was ended says nothing at all
    assert done.returncode == 2 and reading.phase == "refused" and "(epoch 2) has been ended" in reading.text
    assert json.loads((path / "COMPLETE.json").read_text()) == marker | {"epoch": 2}
