"""The benchmark of phases keeps each phase as it is done, beside those that were kept before."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import common
import phases


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return tmp_path


def figures(verdict):
    row = {"verdict": "not met"}
    return {"seconds": {"soak": 30.0}, "statuses": {"soak": "measured"}, "verdict": {"verdict": verdict, "rows": [row]}}


def test_a_phase_is_kept_beside_the_others_and_takes_the_place_of_its_own(results):
    for phase, verdict in (("2b", "NO-GO"), ("2a", "INVALID"), ("2a", "NO-GO")):
        path = phases.keep(phase, figures(verdict))
    kept = json.loads(path.read_text())["phases"]
    assert list(kept) == ["2a", "2b"]
    assert kept["2a"]["verdict"]["verdict"] == "NO-GO" and kept["2a"]["machine"] and kept["2a"]["when"]


def test_phases_are_kept_as_they_come_not_at_the_end(results, monkeypatch):
    def cut_off(names, only, folder):
        yield "2a", figures("NO-GO")
        raise KeyboardInterrupt

    monkeypatch.setattr(phases, "in_lab", cut_off)
    monkeypatch.setattr(phases, "REPO", results)
    monkeypatch.setattr(sys, "argv", ["phases.py", "--lab", "2a", "2b", "--save"])
    with pytest.raises(KeyboardInterrupt):
        phases.main()
    assert list(json.loads((results / "phases-lab.json").read_text())["phases"]) == ["2a"]
