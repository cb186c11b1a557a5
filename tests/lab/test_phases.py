"""The four batch files as they are, with a small profile; and a run that srun starts in mpirun's place."""

import os
import signal
import time

import pytest

from ryzen_mpi.metrics.events import read_events
from tests.lab.jobs import REPO, LabJob, profile, submit

PER_NODE, STEPS, BATCH = 4, 60, 48
WORDS = (f"training.max_steps={STEPS}", f"training.global_batch={BATCH}", "training.save_interval=30")
START_UP = "distributed.timeout_s=60"
"""Up to 16 ranks start on this machine's few cores: they come to their first collectives far apart."""


@pytest.mark.parametrize(
    ("phase", "nodes"),
    [("1", 1), ("2a", 2), pytest.param("2b", 3, marks=pytest.mark.long), pytest.param("2c", 4, marks=pytest.mark.long)],
)
def test_a_phase_file_runs_from_anywhere_on_all_its_nodes(lab, table, phase, nodes):
    elsewhere = lab.shared / f"elsewhere {phase}"
    elsewhere.mkdir()
    words = ("--config", str(profile(lab)), *WORDS, START_UP)
    # The hosts share this machine's cores: a rank that spins takes another's.
    env = {"OMPI_MCA_mpi_yield_when_idle": "1"}
    began = time.monotonic()
    number = lab.sbatch(REPO / f"slurm/phase{phase}.sh", *words, cwd=elsewhere, env=env)
    job = LabJob(lab, number, elsewhere / f"runs/phase{phase}-{number}", elsewhere / f"phase{phase}-{number}.out")
    job.wait("COMPLETED")
    seconds = time.monotonic() - began
    record = job.recovered()[-1]
    assert len(job.records()) == 1, job.said()
    assert (job.complete()["nodes"], job.complete()["ranks"]) == (nodes, nodes * PER_NODE), job.said()
    hosts = {f"node{index + 1}": PER_NODE for index in range(nodes)}
    assert record["hosts"] == hosts
    assert hosts_of_ranks(job) == [host for host in hosts for _ in range(PER_NODE)]
    table(
        f"slurm/phase{phase}.sh",
        job,
        nodes=nodes,
        ranks=record["ranks"],
        down_s=seconds,
        remark="seconds of the whole job",
    )


def hosts_of_ranks(job: LabJob) -> list[str]:
    """Where every rank was, by its own account."""
    return [next(iter(read_events(path)))["labels"]["node"] for path in sorted(job.run.glob("events/rank-*.jsonl"))]


@pytest.mark.long
def test_a_run_under_srun_recovers_as_well(lab, table):
    job = submit(lab, "srun", 2, 1, "training.max_steps=300", launcher="srun --mpi=pmix --cpu-bind=none -n 2")
    job.wait_for(lambda: job.step >= 100)
    os.kill(job.wait_for_ranks(2)[1][1], signal.SIGKILL)
    job.wait("COMPLETED")
    first, second = job.recovered()
    assert (first["cause"], second["ranks"]) == ("killed", 2), job.said()
    assert first["seen_s"] <= 2, first
    table("SIGKILL of a rank under srun --mpi=pmix", job, first, second)
