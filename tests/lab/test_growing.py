"""A node comes back: the run that went on without it goes on with it again."""

import pytest

from tests.lab.cluster import Cluster
from tests.lab.faults import host_death, link_cut
from tests.lab.jobs import LabJob, submit

STEPS = (
    "training.global_batch=960",
    "training.max_steps=1200",
    "training.save_interval=20",
    "data.num_samples=2000000",
)
"""Steps of 0.1 s or so: still at it when the node is back, looked for (20 s after the start) and joined."""
BY_THREE = {"node1": 1, "node2": 1, "node3": 1}


def training(lab: Cluster, name: str) -> LabJob:
    job = submit(lab, name, 3, 1, *STEPS)
    job.wait_for(lambda: job.step)
    job.wait_for_ranks(3)
    return job


def without(job: LabJob) -> None:
    """Until two ranks have made a step."""
    job.wait_for(lambda: len(job.records()) == 2 and job.records()[1]["first_step_s"])


def grown(job: LabJob) -> tuple[dict, dict]:
    """Asserts that the run went on by three ranks from the very step that two had reached; those two attempts.

    A node that answers before Slurm takes it out is gone again when it is wanted: one more attempt of two. And Slurm
    may send the end of the job's life before the requeue to the ranks it has now: one more attempt of three.
    """
    job.wait("COMPLETED")
    records = job.recovered()
    twos = [record for record in records if record["ranks"] == 2]
    assert records[0]["ranks"] == 3 and {record["end"] for record in twos} == {"stopped"}, job.said()
    again = records[records.index(twos[-1]) + 1]
    assert again["ranks"] == 3 and twos[-1]["step"] == again["resumed"], job.said()
    assert records[-1]["hosts"] == BY_THREE and records[-1]["end"] == "complete", job.said()
    return twos[-1], again


@pytest.mark.long
def test_a_node_that_slurm_did_not_miss_is_taken_in_again(lab, table):
    job = training(lab, "rejoined")
    with link_cut(lab, "node3"):
        job.wait_for(lambda: len(job.records()) == 2)  # sooner than Slurm gives a silent node up
    without(job)
    two, again = grown(job)
    assert job.state().restarts == 0, job.said()
    table("a node answers again: 2 -> 3 ranks", job, two, again)


@pytest.mark.long
def test_a_node_that_slurm_took_out_is_taken_in_by_a_requeue(lab, table):
    job = training(lab, "regrown")
    with host_death(lab, "node3"):
        without(job)
        job.wait_for(lambda: lab.slurm("sinfo", "-hn", "node3", "-o", "%t").strip("*\n ") == "down")
    two, again = grown(job)
    assert job.state().restarts == 1, job.said()
    table("a node is whole again: requeued, 2 -> 3 ranks", job, two, again)
