"""`ryzen-mpi validate`, `gate` and `authorise` as a person uses them."""

from __future__ import annotations

import json

import launch
import pytest

CHECK = "gradient_sync"


def ryzen_mpi(cwd, *words, **variables):
    return launch.run(launch.mpirun(1, "-m", "ryzen_mpi", *words), cwd, **variables)


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """A folder in which one check of phase 1 was run, and that run."""
    folder = tmp_path_factory.mktemp("validated")
    return folder, ryzen_mpi(folder, "validate", "1", "--only", CHECK, "--ranks", "2")


def test_a_check_is_shown_with_figure_threshold_and_number(validated):
    _, job = validated
    assert f"[ OK ] (1/1) {CHECK}" in job.succeeded().out, job.said()
    assert "asked <= 0 ulp" in job.out and "1 passed" in job.out
    assert "ryzen-mpi gate 1 --results runs/validation-1" in job.out


def test_the_gate_names_what_was_not_run(validated):
    folder, _ = validated
    job = ryzen_mpi(folder, "gate", "1")
    assert job.code == 3, job.said()
    assert "phase 1, sound thresholds: INSUFFICIENT" in job.out and "it was not run" in job.out
    assert ryzen_mpi(folder, "gate", "1").out == job.out
    told = json.loads(ryzen_mpi(folder, "gate", "1", "--json", "--prometheus", "gate-1.prom").out)
    assert 'verdict="INSUFFICIENT"} 1.0' in (folder / "gate-1.prom").read_text()
    assert told["verdict"] == "INSUFFICIENT" and {row["check"] for row in told["rows"]} >= {CHECK, "soak"}


def test_a_result_edited_by_hand_makes_the_gate_invalid(validated, tmp_path):
    import shutil

    shutil.copytree(validated[0] / "runs", tmp_path / "runs")
    path = next((tmp_path / "runs/validation-1/results").glob(f"*-{CHECK}.json"))
    path.write_text(path.read_text().replace('"n": 1', '"n": 9', 1))
    job = ryzen_mpi(tmp_path, "gate", "1")
    assert job.code == 4 and "INVALID" in job.out and path.name in job.out, job.said()


def test_the_walk_says_which_phase_stands_in_the_way(validated):
    job = ryzen_mpi(validated[0], "authorise")
    assert job.code == 3 and "phase 1 stands in the way; no phase is passed" in job.out, job.said()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("validate",), "which phase, or which list?"),
        (("validate", "3"), "there is no phase '3'"),
        (("validate", "1", "--only", "hardwear"), "did you mean hardware?"),
        (("validate", "1", "--duration", "soon"), "--duration soon: no duration"),
        (("validate", "1", "--option", "x"), "--option x: not NAME=VALUE"),
        (("validate", "1", "--phase", "2a"), "1 is a phase itself"),
        (("validate", "1", "model.layers=3"), "model.layers"),
        (("gate", "1"), "runs/validation-1 is no results folder"),
        (("authorise", "--results", "nowhere"), "there is no folder nowhere"),
    ],
)
def test_wrong_use_is_refused_with_what_is_allowed(tmp_path, words, message):
    launch.refused_with(ryzen_mpi(tmp_path, *words), message)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "runs").write_text("a file")
    launch.refused_with(ryzen_mpi(tmp_path, "validate", "1", "--only", CHECK), "can't be written")


def test_the_list_names_every_check_with_its_requirements(tmp_path):
    out = ryzen_mpi(tmp_path, "validate", "--list").succeeded().out
    listed = {line.split()[0]: line for line in out.splitlines()}
    ids = " ".join(out.split())
    assert CHECK in listed and "daily:" in listed
    assert all(f" E{number} " in ids for number in range(1, 13))
