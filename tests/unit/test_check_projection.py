"""The check that puts the simulator to the test: a machine as calibrated passes, one that slows with more ranks not."""

import json

import pytest
from planted_machine import Machine, put_in_place

from ryzen_mpi.cluster.phases import phase
from ryzen_mpi.scaling.launch import Nodes
from ryzen_mpi.validation.registry import Context, find

RANKS = 4


@pytest.fixture
def figures(monkeypatch, tmp_path):
    def of(slower):
        put_in_place(Machine(slower=slower), monkeypatch)
        found = find("projection").run(Context(phase("1"), RANKS, tmp_path, None, Nodes(), (), {"launches": 3}))
        return {figure.name: figure.value for figure in found.figures}

    return of


def test_a_machine_as_it_was_calibrated_is_predicted(figures, tmp_path):
    found = figures(1.0)
    assert found["error"] < 0.1 and found["within_band"] == 1
    rows = json.loads((tmp_path / "predicted.json").read_text())
    assert [row["ranks"] for row in rows] == [RANKS, phase("2a").ranks]
    assert all(row["launches"] == [] for row in rows)  # written down before anything was measured
    assert found["predicted_throughput"] == rows[0]["predicted"]["value"]
    assert found["next_throughput"] == rows[1]["predicted"]["value"]


def test_ranks_that_are_slower_than_their_calibration_are_found(figures):
    found = figures(1.5)
    assert found["error"] == pytest.approx(0.5, abs=0.1) and found["within_band"] == 0
