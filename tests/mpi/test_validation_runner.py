"""Checks in processes of their own: whatever becomes of one is kept, shown, and leaves the others alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import h5py
import psutil
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from planted_worker import PLANTED  # noqa: E402

from ryzen_mpi.cluster.phases import PHASES  # noqa: E402
from ryzen_mpi.scaling.launch import Nodes  # noqa: E402
from ryzen_mpi.validation import store  # noqa: E402
from ryzen_mpi.validation.runner import Plan, run_all  # noqa: E402
from ryzen_mpi.validation.thresholds import Rules, Threshold  # noqa: E402

NAMES = ("fine", "together", "dies", "one_rank_dies", "hangs", "refuses", "needs_nodes")
RULES = Rules("1", "sound", 4, 1, {"fine": {"figure": Threshold(at_least=5, unit="1", source="test")}})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(campaign, lines shown, results by name) of one run over all the planted checks on two ranks."""
    campaign = store.create(tmp_path_factory.mktemp("results"), "1")
    checks = [PLANTED[name] for name in NAMES]
    plan = Plan(
        PHASES["1"], RULES, checks, 2, Nodes(), words=("--ranks", "2"), worker=(str(HERE / "planted_worker.py"),)
    )
    lines: list[str] = []
    results = run_all(plan, campaign, lines.append)
    return campaign, lines, {result.check: result for result in results}


def test_every_check_leaves_a_result_whatever_became_of_it(done):
    campaign, _, results = done
    assert {name: result.status for name, result in results.items()} == {
        "fine": "measured",
        "together": "measured",
        "dies": "failed",
        "one_rank_dies": "failed",
        "hangs": "timeout",
        "refuses": "failed",
        "needs_nodes": "not measurable",
    }
    kept, damaged = campaign.read()
    assert [result.check for result in kept] == list(NAMES) and not damaged
    assert kept == list(results.values())


def test_a_check_on_all_ranks_ran_on_all(done):
    assert done[2]["together"].figure("ranks").value == 2
    assert done[2]["together"].figure("figure").value == 1


def test_the_lines_tell_figure_threshold_evidence_and_how_to_run_it_again(done):
    _, lines, _ = done
    text = "\n".join(lines)
    assert "[FAIL] (1/7) fine  figure 3, asked >= 5" in text
    assert "half of it" in text and "hanging" in text
    assert "heat not measurable here: no sensor" in text
    assert "again: ryzen-mpi validate 1 --only fine --ranks 2" in text
    assert "[ OK ] (2/7) together  figure 1" in text
    assert "[ERR ] (6/7) refuses: failed: so much is not there" in text and "ask for less" in text
    assert "[ -- ] (7/7) needs_nodes: not measurable: needs at least 3 nodes" in text


def test_a_check_that_hangs_is_ended_with_all_its_processes(done):
    left = [p for p in psutil.process_iter(["cmdline"]) if "planted_worker.py" in " ".join(p.info["cmdline"] or ())]
    assert not left


def test_the_figures_are_in_hdf5_and_junit_too(done):
    campaign, _, _ = done
    with h5py.File(campaign.path / "metrics.h5") as file:
        assert file["fine/0001/figure"][()] == 3.0 and file["fine/0001/figure"].attrs["units"] == "1"
    suite = ElementTree.parse(campaign.path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("7", "1", "4")
    assert suite.get("skipped") == "1"


def test_a_result_that_was_edited_by_hand_is_damaged(done, tmp_path):
    campaign, _, _ = done
    copy = store.create(tmp_path, "1")
    for path in campaign.results.glob("*.json"):
        content = json.loads(path.read_text())
        if content["check"] == "fine":
            content["findings"]["figures"][0]["value"] = 300.0
        (copy.results / path.name).write_text(json.dumps(content))
    kept, damaged = copy.read()
    assert len(kept) == len(NAMES) - 1
    assert len(damaged) == 1 and "0001-fine.json" in damaged[0] and "changed after" in damaged[0]
