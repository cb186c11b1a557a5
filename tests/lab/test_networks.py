"""Hosts that die and links that break: who is cut off ends itself before anybody takes its place."""

import time

import pytest

from tests.lab.faults import host_death, link_cut, link_cut_one_way
from tests.lab.jobs import LabJob, submit

FLAP_S, CUT_S = 8, 60
RECOVERY_S = 30


def training(lab, name: str, *words: str, options: str = "", steps: int = 800) -> LabJob:
    """A job of three hosts that has saved something."""
    job = submit(lab, name, 3, 1, f"training.max_steps={steps}", *words, options=options)
    job.wait_for(lambda: job.step >= 50)
    job.wait_for_ranks(3)
    return job


def downtime(before: dict, after: dict, since: float) -> tuple[float, float]:
    """Seconds from `since` (wall clock) to the first step of the attempt `after`, and those of its imports."""
    return after["started"] + after["first_step_s"] - since, after["import_s"]


def ranks_on(job: LabJob, host: str) -> list[int]:
    return [rank for rank, (where, _) in job.ranks().items() if where == host]


@pytest.mark.long
def test_a_flap_of_eight_seconds_restarts_nothing(lab, table):
    job = training(lab, "flap")
    with link_cut(lab, "node3"):
        time.sleep(FLAP_S)
    job.wait("COMPLETED")
    assert len(job.recovered()) == 1, job.said()
    table("link cut for 8 s", job, attempts=1)


def test_a_host_that_dies_is_done_without(lab, table):
    job = training(lab, "host", steps=500)
    began = time.time()
    with host_death(lab, "node3"):
        job.wait_for(lambda: len(job.records()) == 2 and job.records()[1]["first_step_s"])
        job.wait("COMPLETED")
    first, second = job.recovered()[:2]
    assert second["hosts"] == {"node1": 1, "node2": 1}, job.said()
    down_s, import_s = downtime(first, second, began)
    assert down_s - import_s <= RECOVERY_S, job.said()
    table("host killed", job, first, second, down_s=down_s, import_s=import_s)


@pytest.mark.long
def test_a_cut_of_a_minute_costs_thirty_seconds_and_the_far_side_is_dead_before(lab, table):
    job = training(lab, "cut", steps=500)
    began = time.time()
    with link_cut(lab, "node3"):
        job.wait_for(lambda: len(job.records()) == 2)
        assert not ranks_on(job, "node3"), "the far side lived when the new attempt began"
        job.wait_for(lambda: job.records()[1]["first_step_s"])
        time.sleep(max(0.0, began + CUT_S - time.time()))
    job.wait("COMPLETED")
    first, second = job.recovered()[:2]
    down_s, import_s = downtime(first, second, began)
    assert down_s <= RECOVERY_S + import_s, job.said()
    table("link cut for 60 s", job, first, second, down_s=down_s, import_s=import_s)


@pytest.mark.long
@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_link_that_works_one_way_is_no_link(lab, table, direction):
    job = training(lab, f"oneway-{direction}", steps=500)
    with link_cut_one_way(lab, "node3", direction):
        job.wait_for(lambda: len(job.records()) == 2)
        assert not ranks_on(job, "node3"), "the far side lived when the new attempt began"
        job.wait_for(lambda: job.records()[1]["first_step_s"])
    job.wait("COMPLETED")
    first, second = job.recovered()[:2]
    table(f"link cut one way ({direction})", job, first, second)
