"""Ranks that are killed, stopped or fail: the run comes to its end without a person, bit for bit as if undisturbed."""

import os
import signal

from tests.lab.jobs import REPO, LabJob, submit


def strike(job: LabJob, step: int, ranks: tuple[int, ...], number: int) -> None:
    """Sends `number` to `ranks` once a checkpoint of `step` or later is there and three ranks train."""
    job.wait_for(lambda: job.step >= step)
    victims = job.wait_for_ranks(3)
    for rank in ranks:
        os.kill(victims[rank][1], number)


def test_killed_ranks(lab, undisturbed, table):
    job = submit(lab, "killed", 3, 1)
    plan = [
        ("rank 0", (0,), signal.SIGKILL),
        ("a middle rank", (1,), signal.SIGSEGV),
        ("the last", (2,), signal.SIGKILL),
    ]
    plan.append(("two at once", (0, 2), signal.SIGKILL))
    for number, (_, ranks, what) in enumerate(plan):
        strike(job, 50 + 150 * number, ranks, what)
        job.wait_for(lambda number=number: len(job.faults()) == number + 1)
    job.wait("COMPLETED")
    records = job.recovered()
    assert job.final() == undisturbed
    assert [r["cause"] for r in records] == ["killed"] * 4 + [""]
    for (who, _, what), record, after in zip(plan, records, records[1:], strict=False):
        assert record["seen_s"] <= 2, record
        table(f"{signal.Signals(what).name} of {who}", job, record, after, same=True)


def test_ranks_that_fail_at_bad_moments(lab, undisturbed, table):
    """An exception, a kill while a checkpoint is half written, one in the recovery, and half of the ranks gone."""
    env = {"PLANTED": "raise#1:1@120 partial#2:250"}
    job = submit(lab, "moments", 3, 1, program=f"{REPO}/tests/mpi/planted.py", env=env)
    job.wait_for(lambda: len(job.faults()) == 1)

    job.wait_for(lambda: list(job.run.glob("checkpoints/.epoch-000002/.step-00000250.partial-*")))
    os.kill(job.ranks()[0][1], signal.SIGKILL)
    job.wait_for(lambda: len(job.faults()) == 2)

    job.wait_for(lambda: 2 in job.ranks())
    os.kill(job.ranks()[2][1], signal.SIGKILL)
    job.wait_for(lambda: len(job.faults()) == 3)

    job.wait_for(lambda: job.step >= 450)
    for daemon in [process for process in lab.processes("node2") if process.name == "prted"]:  # and its parent
        os.kill(daemon.pid, signal.SIGKILL)
    job.wait("COMPLETED")

    records = job.recovered()
    assert job.final() == undisturbed
    assert [r["end"] for r in records] == ["fault"] * 4 + ["complete"], job.said()
    assert [r["cause"] for r in records[:3]] == ["failed", "killed", "killed"], job.said()
    assert "planted: the sum" in records[0]["evidence"]
    assert records[1]["saved"] < 250, "the half-written checkpoint was counted"
    assert records[2]["step"] <= records[2]["resumed"] or records[2]["step"] < 0, "it trained when it was killed"
    whats = ("an exception in one rank", "SIGKILL of rank 0 while it saves", "SIGKILL of a rank in the recovery")
    whats += ("mpirun's daemon on a node killed: mpirun exits 0",)
    for what, record, after in zip(whats, records, records[1:], strict=False):
        assert record["seen_s"] is not None and record["seen_s"] <= 2, record
        table(what, job, record, after, same=True)
