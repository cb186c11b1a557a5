"""The checks and gates of the phases, as batch jobs on the cluster; and a link that loses what it carries."""

import json

import pytest

from tests.lab.faults import packet_loss
from tests.lab.jobs import REPO

PER_NODE = 4
QUICK = "hardware,network_loss"
"""Quick on two cores: what trains on 8 ranks there takes minutes, and is in the long tests."""
WORDS = ("distributed.timeout_s=60",)
"""Up to 16 ranks start on this machine's few cores: they come to their first collectives far apart."""
LIMIT_S = 1800.0
GATE_CODES = {"GO": 0, "NO-GO": 1, "INSUFFICIENT": 3, "INVALID": 4}


def validate(lab, phase, nodes, *words, name="validation"):
    """(job, its output, the sealed results by check, the verdict) of slurm/validate.sh."""
    elsewhere = lab.shared / f"{name} {phase}"
    elsewhere.mkdir(exist_ok=True)
    number = lab.sbatch(
        *(REPO / "slurm/validate.sh", phase, *words, *WORDS),
        options=(f"--nodes={nodes}", "--time=40:00"),
        cwd=elsewhere,
        env={"OMPI_MCA_mpi_yield_when_idle": "1"},  # the hosts share this machine's cores
    )
    job = lab.wait_job(number, timeout_s=LIMIT_S)
    said = (elsewhere / f"validate-{number}.out").read_text(errors="replace")
    results = elsewhere / f"runs/validation-{phase}"
    found = [json.loads(path.read_text()) for path in sorted(results.glob("results/*.json"))]
    gate = lab.run("ctl", [str(REPO / "env/run"), "ryzen-mpi", "gate", phase, "--results", str(results), "--json"])
    return job, said, {each["check"]: each for each in found}, json.loads(gate.stdout)


def figure(result, name):
    return next(each["value"] for each in result["findings"]["figures"] if each["name"] == name)


def test_a_phase_is_validated_on_its_nodes_and_the_job_ends_as_its_gate(lab):
    job, said, results, verdict = validate(lab, "2a", 2, "--only", QUICK)
    assert set(results) == set(QUICK.split(",")), said
    assert {result["status"] for result in results.values()} == {"measured"}, said
    assert all((r["conditions"]["ranks"], r["conditions"]["nodes"]) == (8, 2) for r in results.values())
    assert figure(results["hardware"], "cores_per_rank") == 0  # two cores carry all hosts
    assert figure(results["network_loss"], "datagrams_lost") == 0
    assert verdict["verdict"] == "NO-GO" and "phase 2a, sound thresholds: NO-GO" in said
    assert job.state == "FAILED", job


@pytest.mark.long
def test_a_link_that_loses_packets_is_found(lab):
    with packet_loss(lab, "node2", 0.02):
        _, said, results, verdict = validate(lab, "2a", 2, "--only", "network_loss", name="lossy")
    assert 0.002 < figure(results["network_loss"], "datagrams_lost") < 0.2, said
    assert verdict["verdict"] == "NO-GO" and "datagrams_lost" in " ".join(verdict["reasons"]), said


@pytest.mark.long
@pytest.mark.parametrize(("phase", "nodes"), [("2a", 2), ("2b", 3), ("2c", 4)])
def test_a_phase_is_validated_whole(lab, phase, nodes):
    """Every check of the phase in short: none breaks, and the soak is what is missing."""
    short = ("--duration", "30s", "--option", "steps=3", "--option", "repeats=2", "--option", "launches=2")
    _, said, results, verdict = validate(lab, phase, nodes, *short, name="whole")
    assert {result["status"] for result in results.values()} <= {"measured", "not measurable"}, said
    assert verdict["verdict"] in ("NO-GO", "INSUFFICIENT"), verdict["reasons"]
    assert {row["check"] for row in verdict["rows"]} == set(results), said
    soak = next(row for row in verdict["rows"] if row["figure"] == "soak_s")
    assert soak["means"] == "INSUFFICIENT" and soak["verdict"] == "too short"
