"""Ranks that are killed, stopped or fail: the run comes to its end without a person, bit for bit as if undisturbed."""

import os
import signal

import pytest

from tests.lab.jobs import LabJob, submit


@pytest.fixture(scope="session")
def undisturbed(cluster):
    """The final checkpoint of a run of three ranks on three nodes that nobody disturbed."""
    cluster.revive()
    job = submit(cluster, "undisturbed", 3, 1)
    job.wait("COMPLETED")
    assert len(job.recovered()) == 1, job.said()
    assert set(job.complete()) and job.complete()["nodes"] == 3
    return job.final()


def strike(job: LabJob, step: int, ranks: tuple[int, ...], number: int) -> None:
    """Sends `number` to `ranks` once a checkpoint of `step` or later is there and three ranks train."""
    job.wait_for(lambda: job.step >= step)
    victims = job.wait_for_ranks(3)
    for rank in ranks:
        os.kill(victims[rank][1], number)


def test_killed_ranks(lab, undisturbed, table):
    job = submit(lab, "killed", 3, 1)
    plan = [("rank 0", (0,), signal.SIGKILL), ("a middle rank", (1,), signal.SIGSEGV), ("the last", (2,), signal.SIGKILL)]
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
