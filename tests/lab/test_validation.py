"""The checks and gates of the phases, as batch jobs on the cluster; and a link that loses what it carries."""

import pytest

from tests.lab.faults import bandwidth_limit, packet_loss
from tests.lab.validating import SHORT, validate

PER_NODE = 4
QUICK = "hardware,network_loss,gradient_sync"
"""On eight ranks that share two cores: a check whose ranks spin while they wait does not come to an end there."""


def test_a_phase_is_validated_on_its_nodes_and_the_job_ends_as_its_gate(lab):
    found = validate(lab, "2a", 2, "--only", QUICK)
    assert set(found.results) == set(QUICK.split(",")), found.said
    assert {result["status"] for result in found.results.values()} == {"measured"}, found.said
    sizes = {(each["conditions"]["ranks"], each["conditions"]["nodes"]) for each in found.results.values()}
    assert sizes == {(2 * PER_NODE, 2)}
    assert found.figure("gradient_sync", "steps_equal") == 1
    assert found.figure("hardware", "cores_per_rank") == 0  # two cores carry all hosts
    assert found.figure("network_loss", "datagrams_lost") == 0
    assert found.verdict["verdict"] == "NO-GO" and "phase 2a, sound thresholds: NO-GO" in found.said
    assert found.state == "FAILED"


@pytest.mark.long
def test_a_link_that_loses_packets_is_found(lab):
    with packet_loss(lab, "node2", 0.02):
        found = validate(lab, "2a", 2, "--only", "network_loss", name="lossy")
    assert 0.002 < found.figure("network_loss", "datagrams_lost") < 0.2, found.said
    reasons = " ".join(found.verdict["reasons"])
    assert found.verdict["verdict"] == "NO-GO" and "datagrams_lost" in reasons, found.said


@pytest.mark.long
def test_a_slow_link_is_found(lab):
    with bandwidth_limit(lab, "node2", 50_000_000):
        found = validate(lab, "2a", 2, "--only", "network_speed", name="slow")
    assert 0.02 < found.figure("network_speed", "speed") < 0.06, found.said
    assert found.verdict["verdict"] == "NO-GO" and "network_speed speed" in " ".join(found.verdict["reasons"])


@pytest.mark.long
@pytest.mark.parametrize(("phase", "nodes"), [("2a", 2), ("2b", 3), ("2c", 4)])
def test_a_phase_is_validated_whole(lab, phase, nodes):
    """Every check of the phase in short: none breaks, and the soak is what is missing."""
    found = validate(lab, phase, nodes, *SHORT, name="whole")
    statuses = {name: result["status"] for name, result in found.results.items()}
    assert set(statuses.values()) <= {"measured", "not measurable"}, (statuses, found.said)
    assert found.verdict["verdict"] in ("NO-GO", "INSUFFICIENT"), found.verdict["reasons"]
    assert {row["check"] for row in found.verdict["rows"]} == set(found.results), found.said
    soak = next(row for row in found.verdict["rows"] if row["figure"] == "soak_s")
    assert soak["means"] == "INSUFFICIENT" and soak["verdict"] == "too short"
