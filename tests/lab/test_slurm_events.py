"""What Slurm does to a job: time limits, requeues, preemption, an absent controller; and a killed supervisor."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.lab.faults import slurmctld_restart
from tests.lab.jobs import REPO, LabJob, submit

SAVE_EVERY = 20
LONG_STEPS = ("training.global_batch=480", f"training.save_interval={SAVE_EVERY}")
GONE_S = 12.0
"""The lease of a rank and its margin: the issue's bound for ranks that nobody supervises any more."""


def training(lab, name: str, steps: int, words: tuple[str, ...] = LONG_STEPS, **how: object) -> LabJob:
    """A job of two hosts, with steps of 50 ms or more, that has saved something."""
    job = submit(lab, name, 2, 1, *words, f"training.max_steps={steps}", **how)
    job.wait_for(lambda: job.step)
    job.wait_for_ranks(2)
    return job


def gone_on_at_the_saved_step(job: LabJob) -> tuple[dict, dict]:
    """Asserts that the job was requeued once, and went on at the very step it was stopped at; both attempts."""
    job.wait_for(lambda: job.state().restarts == 1)
    job.wait("COMPLETED")
    first, second = job.recovered()
    assert first["end"] == "stopped" and second["end"] == "complete", job.said()
    assert first["step"] == second["resumed"] > 0, job.said()
    assert job.state().restarts == 1, job.said()
    return first, second


@pytest.mark.long
def test_a_warned_job_saves_and_is_requeued(lab, table):
    job = training(lab, "warned", 200)
    lab.slurm("scancel", "--batch", "--signal=USR1", str(job.number))
    first, second = gone_on_at_the_saved_step(job)
    table("USR1 of Slurm to the batch shell", job, first, second)


@pytest.mark.long
def test_a_warning_that_reaches_the_ranks_alone_is_taken_for_the_job(lab, table):
    job = training(lab, "warned-steps", 200)
    lab.slurm("scancel", "--signal=USR1", str(job.number))
    first, second = gone_on_at_the_saved_step(job)
    table("USR1 of Slurm to the steps alone", job, first, second)


@pytest.mark.long
def test_a_stray_signal_to_one_rank_ends_nothing(lab, table):
    job = training(lab, "stray", 200)
    os.kill(job.ranks()[1][1], signal.SIGTERM)
    job.wait("COMPLETED")
    first, second = job.recovered()
    assert (first["end"], second["end"]) == ("stopped", "complete") and first["step"] == second["resumed"], job.said()
    assert len(job.events("stray-signal")) == 1 and job.state().restarts == 0, job.said()
    table("SIGTERM to one rank, not to the job", job, first, second)


def test_a_requeued_job_goes_on_at_its_step(lab, table):
    # Steps of a third of a second or more: longer than what a launcher's daemon that is told to end leaves its ranks (a
    # quarter), and so short that the step, the saving and the leaving fit into the five seconds that Slurm leaves.
    job = training(lab, "requeued", 60, words=("training.global_batch=1200", "training.save_interval=5"))
    lab.slurm("scontrol", "requeue", str(job.number))
    first, second = gone_on_at_the_saved_step(job)
    table("scontrol requeue", job, first, second)


@pytest.mark.long
def test_a_preempted_job_goes_on_at_its_step(lab, table):
    job = training(lab, "preempted", 200)
    urgent = lab.sbatch("#!/bin/bash\nexec sleep 1", options=["--nodes=4", "--exclusive", "--partition=urgent"])
    first, second = gone_on_at_the_saved_step(job)
    assert lab.job(urgent).state == "COMPLETED"
    table("preempted by an urgent job", job, first, second)


@pytest.mark.long
def test_a_time_limit_costs_no_step(lab, table):
    # Slurm looks at time limits twice a minute: the warning comes 12 to 42 s after the start.
    job = training(lab, "limited", 900, sbatch=("--time=1:00", "--signal=B:USR1@18"))
    job.wait_for(lambda: job.state().state == "PENDING")
    lab.slurm("scontrol", "update", f"jobid={job.number}", "timelimit=30")
    first, second = gone_on_at_the_saved_step(job)
    table("time limit, warned by USR1", job, first, second)


@pytest.mark.long
def test_a_controller_that_is_away_stops_nothing(lab, table):
    job = training(lab, "controller", 500)
    with slurmctld_restart(lab):
        time.sleep(2)
    before = job.step
    job.wait_for(lambda: job.step > before)
    assert len(job.records()) == 1, job.said()
    table("slurmctld restarted", job, attempts=1)
    with slurmctld_restart(lab):
        os.kill(job.ranks()[1][1], signal.SIGKILL)
        job.wait_for(lambda: len(job.faults()) == 1)
        job.wait_for(lambda: "waiting, Slurm's controller does not answer" in job.said())
    job.wait("COMPLETED")
    first, second = job.recovered()
    assert second["hosts"] == {"node1": 1, "node2": 1}, job.said()
    table("a rank killed while slurmctld is away", job, first, second)


@pytest.mark.long
def test_ranks_without_their_supervisor_end_and_the_run_goes_on(lab, table):
    job = training(lab, "orphans", 200)
    os.kill(job.supervisor()[1], signal.SIGKILL)
    began = time.monotonic()
    job.wait_for(lambda: not job.ranks())
    gone_s = time.monotonic() - began
    assert gone_s <= GONE_S, job.said()
    job.wait("FAILED")
    assert job.complete() is None
    again = submit(lab, "orphans", 2, 1, *LONG_STEPS, "training.max_steps=200")
    again.wait("COMPLETED")
    first, second = again.recovered()
    assert (first["end"], second["end"]) == ("left", "complete"), again.said()
    assert second["resumed"] >= SAVE_EVERY
    table("supervisor killed", again, first, second, ended_s=gone_s)


def test_what_a_person_did_wrong_is_one_line(lab, table):
    job = training(lab, "wrong", 300)
    second = submit(lab, "wrong", 1, 1, sbatch=("--exclude=node1,node2", f"--output={lab.shared}/second.out"))
    second.output = lab.shared / "second.out"
    refused(second, f"{job.run} is supervised already, by process ")
    many = submit(lab, "many", 1, 1, options="--nodes 7", sbatch=("--exclude=node1,node2",))
    refused(many, "7 nodes asked for, 1 got (node3)")
    phase = lab.sbatch(REPO / "slurm/phase2b.sh", options=["-N", "2", f"--output={lab.shared}/phase.out"])
    refused(
        LabJob(lab, phase, lab.shared / "phase", lab.shared / "phase.out"),
        "slurm/phase2b.sh: needs nodes=3 ranks=12 (4 a node); this job got nodes=2 ranks=8",
    )
    job.wait("COMPLETED")
    assert len(job.recovered()) == 1
    table("two supervisors; wrong node counts", job, attempts=1)


def refused(job: LabJob, line: str) -> None:
    """Asserts that the job ended at once, with exit code 2 and nothing but one line with `line` in it, and its hint."""
    ended = job.wait("FAILED")
    assert ended.fields["ExitCode"] == "2:0", job.said()
    assert line in job.said()
    assert len(job.said().splitlines()) <= 2, job.said()


def test_a_lock_that_was_left_is_none(lab):
    run = lab.shared / "stale"
    (run / "supervisor").mkdir(parents=True)
    for lock in (run / ".lock", run / "supervisor/.lock"):
        lock.write_text("process 1 on node4\n")
    job = submit(lab, "stale", 1, 1, "training.max_steps=20")
    job.wait("COMPLETED")
    assert len(job.recovered()) == 1
