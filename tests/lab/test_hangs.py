"""Ranks that are stopped: found in time, ended for good, made up for bit by bit. One that is slow is left alone."""

import os
import signal
import time
from datetime import datetime

import pytest

from tests.lab.faults import slow_rank
from tests.lab.jobs import REPO, LabJob, submit

DEFAULT_S, SHORT_S = 15, 5
MARGIN_S = 5
SLOW_S = 10


def stop(job: LabJob, step: int, ranks: tuple[int, ...]) -> float:
    """SIGSTOP to `ranks` once a checkpoint of `step` is there; seconds from then to the supervisor's verdict."""
    job.wait_for(lambda: job.step >= step)
    job.wait_for_ranks(3)
    return stop_now(job, ranks)


def stop_now(job: LabJob, ranks: tuple[int, ...]) -> float:
    """SIGSTOP to `ranks`; seconds from then to the supervisor's verdict."""
    pids, count = job.ranks(), len(job.events("verdict"))
    for rank in ranks:
        os.kill(pids[rank][1], signal.SIGSTOP)
    began = time.time()
    job.wait_for(lambda: len(job.faults()) == count + 1)
    return datetime.fromisoformat(job.events("verdict")[count]["time"].replace("Z", "+00:00")).timestamp() - began


@pytest.mark.long
def test_stopped_ranks(lab, undisturbed, table):
    job = submit(lab, "stopped", 3, 1, f"distributed.timeout_s={SHORT_S}")
    plan = [("rank 0", (0,)), ("a middle rank", (1,)), ("the last", (2,)), ("two at once", (0, 1))]
    seconds = [stop(job, 50 + 150 * number, ranks) for number, (_, ranks) in enumerate(plan)]
    job.wait("COMPLETED")
    records = job.recovered()
    assert job.final() == undisturbed
    assert [r["end"] for r in records] == ["fault"] * 4 + ["complete"], job.said()
    assert max(seconds) <= SHORT_S + MARGIN_S, seconds
    for (who, _), took_s, record, after in zip(plan, seconds, records, records[1:], strict=False):
        table(f"SIGSTOP of {who} (timeout {SHORT_S} s)", job, record, after, same=True, noticed_s=took_s)


@pytest.mark.long
def test_ranks_stopped_at_bad_moments(lab, undisturbed, table):
    """Rank 0 while its checkpoint is half written, and one that has just been started again."""
    program = f"{REPO}/tests/mpi/planted.py"
    words = (f"distributed.timeout_s={SHORT_S}",)
    job = submit(lab, "stopped-moments", 3, 1, *words, program=program, env={"PLANTED": "partial#1:150"})
    job.wait_for(lambda: list(job.run.glob("checkpoints/.epoch-000001/.step-00000150.partial-*")))
    seconds = [stop_now(job, (0,))]
    job.wait_for(lambda: len(job.faults()) == 1 and 2 in job.ranks())
    seconds.append(stop_now(job, (2,)))
    job.wait("COMPLETED")
    records = job.recovered()
    assert job.final() == undisturbed
    assert [r["cause"] for r in records] == ["stopped", "stopped", ""], job.said()
    assert records[0]["saved"] == 100, "the half-written checkpoint was counted"
    assert records[1]["first_step_s"] is None, "it trained when it was stopped"
    assert max(seconds) <= SHORT_S + MARGIN_S, seconds
    whats = ("SIGSTOP of rank 0 while it saves", "SIGSTOP of a rank in the recovery")
    for what, took_s, record, after in zip(whats, seconds, records, records[1:], strict=False):
        table(f"{what} (timeout {SHORT_S} s)", job, record, after, same=True, noticed_s=took_s)


@pytest.mark.long
def test_a_stopped_rank_at_the_default_timeout_and_a_slow_one(lab, undisturbed, table):
    job = submit(lab, "default", 3, 1)
    job.wait_for(lambda: job.step >= 50)
    with slow_rank(job.wait_for_ranks(3)[1][1]):
        time.sleep(SLOW_S)
    assert len(job.records()) == 1, job.said()
    table("a rank that runs a fifth of the time: no fault", job, attempts=1)
    took_s = stop(job, job.step + 50, (1,))
    job.wait("COMPLETED")
    first, second = job.recovered()
    assert job.final() == undisturbed
    assert took_s <= DEFAULT_S + MARGIN_S, took_s
    table(f"SIGSTOP of a middle rank (timeout {DEFAULT_S} s)", job, first, second, same=True, noticed_s=took_s)
