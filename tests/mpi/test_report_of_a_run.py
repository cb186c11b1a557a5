"""The report of real runs: what ranks recorded is what it shows, and ranks on one core are told."""

import json
import os

import pytest
from launch import mpirun, overrides, run, train

from ryzen_mpi.report.advice import shared_cores
from ryzen_mpi.report.read_run import read_run
from ryzen_mpi.report.run_report import run_report

RANKS = 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run(mpirun(RANKS, *train(folder / "run", *overrides())), folder).succeeded()
    return folder / "run"


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Both ranks on the first core that there is."""
    folder = tmp_path_factory.mktemp("crowded")
    core = min(os.sched_getaffinity(0))
    command = mpirun(RANKS, *train(folder / "run", *overrides(training__max_steps=12)))
    run(["taskset", "-c", str(core), *command], folder).succeeded()
    return folder / "run"


def test_a_real_run_gives_a_whole_report(trained):
    facts = read_run(trained)
    assert facts.missing == () and len(facts.steps) == 40 and facts.restarts == ()
    report = run_report(facts, facts.sign_s)
    assert report.headline.verdict == "Complete" and report.headline.text.startswith("40 steps")
    assert {picture.name for section in report.sections for picture in section.pictures} == {"over-time", "ranks"}
    assert all(figure.value is not None for figure in report.key)


def test_the_throughput_shown_is_that_of_the_runs_own_summary(trained):
    report = run_report(read_run(trained), 0.0)
    summary = json.loads((trained / "COMPLETE.json").read_text())
    assert report.key[0].value == pytest.approx(summary["samples_per_s"]["value"])
    assert report.key[0].n == summary["samples_per_s"]["n"]


def test_every_rank_records_where_it_runs(trained):
    places = read_run(trained).places
    assert [place.rank for place in places] == list(range(RANKS))
    allowed = os.sched_getaffinity(0)
    assert all(place.cpus and place.cpus <= allowed and place.threads >= 1 for place in places)
    assert len({place.host for place in places}) == 1 and places[0].node_memory_bytes > 2**28


def test_ranks_that_share_a_core_are_told(crowded):
    (advice,) = shared_cores(read_run(crowded))
    assert advice.what.startswith("ranks 0 and 1 share cores")
