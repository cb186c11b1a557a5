"""Another number of ranks while the job runs; and another network when the first one breaks."""

import re
import subprocess
import time

import numpy as np
import pytest

from tests.lab.faults import link_cut
from tests.lab.hosts import NETWORKS
from tests.lab.jobs import REPO, LabJob, submit

STEPS, BATCH = 800, 24


def ask(job: LabJob, ranks: int) -> tuple[subprocess.CompletedProcess, float]:
    """What `ryzen-mpi resize` of the run to `ranks` says on a host, and after how many seconds."""
    began = time.monotonic()
    words = [str(REPO / "env/run"), "ryzen-mpi", "resize", str(job.run), str(ranks)]
    done = job.lab.run("node1", words, timeout_s=120)
    return done, time.monotonic() - began


def saves_after(job: LabJob, step: int) -> None:
    """Until the attempt that began at `step` has saved something of its own."""
    job.wait_for(lambda: job.step > step)


def test_four_ranks_eight_and_four_again_train_every_sample_once(lab, table):
    whole = submit(lab, "resize-whole", 1, 1, f"training.max_steps={STEPS}")
    whole.wait("COMPLETED")
    losses = whole.metrics()["training/loss"]

    job = submit(lab, "resize", 4, 2, f"training.max_steps={STEPS}", launcher="auto -np 4")
    saves_after(job, 0)
    done, _ = ask(job, 9)
    assert done.returncode == 2 and "9 ranks asked for, 4 nodes of 2 hold 8" in done.stderr, done
    for ranks in (8, 4):
        before = job.records()[-1]["ranks"]
        done, seconds = ask(job, ranks)
        began = re.match(rf"{ranks} ranks train from step (\d+)", done.stdout)
        assert done.returncode == 0 and began, done
        record = job.records()[-1]
        name, import_s = f"resize {before} -> {ranks} ranks", record["import_s"]
        table(name, job, ranks=before, ranks_after=ranks, down_s=seconds, import_s=import_s)
        saves_after(job, int(began[1]))
    job.wait("COMPLETED")

    records = job.recovered()
    assert [(r["ranks"], r["end"]) for r in records] == [(4, "stopped"), (8, "stopped"), (4, "complete")], job.said()
    assert set(records[1]["hosts"]) == set(lab.nodes)
    held = job.metrics()
    assert held["training/samples"].tolist() == list(range(BATCH, BATCH * STEPS + 1, BATCH))
    assert np.abs(held["training/loss"] - losses).max() < 1e-9


@pytest.mark.long
def test_an_attempt_that_lost_its_network_goes_on_over_the_next(lab, table):
    words = (f"training.max_steps={STEPS}", "distributed.interfaces=[ib0,eth0]", "distributed.timeout_s=8")
    job = submit(lab, "failover", 2, 1, *words)
    job.wait_for(lambda: job.step >= 50)
    job.wait_for_ranks(2)
    with link_cut(lab, "node2", ("ib0",)):
        job.wait("COMPLETED")
    first, second = job.recovered()
    assert (first["end"], second["ranks"]) == ("fault", 2), job.said()
    wanted = [event["command"].rpartition("distributed.interfaces=")[2] for event in job.events("attempt")]
    assert wanted == ["[ib0,eth0]", "[eth0,ib0]"], job.said()
    stores = re.findall(r"store (\d+\.\d+\.\d+)", job.output.read_text())
    assert stores == [NETWORKS["ib0"], NETWORKS["eth0"]], job.said()
    table("the first of two networks cut: goes on over the second", job, first, second)
