"""The benchmark of predictions on a planted machine: what it predicts before, measures after, and makes of both."""

import argparse
import json
import sys
from pathlib import Path

import pytest
from planted_machine import Machine, put_in_place

from ryzen_mpi.scaling import trial
from ryzen_mpi.scaling.launch import Nodes

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import predictions


def options(**changes):
    given = dict(launches=3, rounds=6, steps=3, profile="scaling_benchmark", overrides=[], case=["float32"], keep=None)
    return argparse.Namespace(**given | changes)


@pytest.fixture
def machine(monkeypatch):
    return lambda lab: put_in_place(Machine(lab), monkeypatch)


@pytest.mark.parametrize("lab", [False, True])
def test_a_planted_machine_is_predicted_within_10_percent_and_the_band(machine, tmp_path, lab):
    made, nodes = machine(lab), Nodes(("a", "b", "c", "d"), 1) if lab else Nodes()
    rows = predictions.case("float32", options(), tmp_path, nodes, in_lab=lab)
    assert [(row["ranks"], row["mode"]) for row in rows] == [(3, "weak"), (3, "strong"), (4, "weak"), (4, "strong")]
    found = predictions.summary(rows)
    assert found["n"] == 4 and found["median_error"] < 0.1 and found["within_band"] == 1, rows
    before = json.loads((tmp_path / "predicted-float32.json").read_text())
    assert all(row["launches"] == [] for row in before)  # written down before anything was measured
    assert [row["predicted"] for row in before] == [row["predicted"] for row in rows]
    measured = [asked for asked in made.asked if asked[0] > 2]
    assert measured == [(3, 1 if lab else 3)] * 3 + [(4, 1 if lab else 4)] * 3
    calibrated = made.asked[: made.asked.index(measured[0])]
    assert len(calibrated) >= 6  # none of them before the calibration's end, and a single rank beside each
    assert made.asked[len(calibrated) :] == [each for one in measured for each in (one, (1, 1))]
    assert all(abs(row["pace"] - 1) < 0.1 and abs(row["error_at_pace"]) < 0.1 for row in rows)
    if lab:
        assert max(row["parts"]["between nodes"] for row in rows) > 0.3


def test_an_error_beyond_the_band_is_counted():
    rows = [
        predictions.judged(
            "x", trial.compared({"launches": launches, "predicted": {"value": 10.0, "low": 9.0, "high": 11.0}}), 2.0
        )
        for launches in ([10.0, 10.0, 50.0], [20.0], [9.5])
    ]
    assert [row["within"] for row in rows] == [True, False, True]
    found = predictions.summary(rows)
    assert rows[1]["error_at_pace"] == 0  # a machine twice as fast as when calibrated
    assert found["largest_error"] == 0.5 and found["within_band"] == pytest.approx(2 / 3)
