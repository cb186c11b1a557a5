"""`ryzen-mpi report` as a person calls it."""

import json

import pytest
import report_inputs as inputs
from click.testing import CliRunner

from ryzen_mpi.cli import group
from ryzen_mpi.errors import UserError


def ran(*words):
    return CliRunner().invoke(group, ["report", *map(str, words)], catch_exceptions=True)


def refused(*words):
    done = ran(*words)
    assert isinstance(done.exception, UserError) or done.exit_code == 2, done.output
    return str(done.exception) + done.output


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    inputs.write_run(folder / "runs" / "one")
    inputs.write_run(folder / "runs" / "two", count=60)
    inputs.write_results(folder / "results", judged=inputs.verdict())
    (folder / "scaling.json").write_text(json.dumps(inputs.scaling()))
    return folder


@pytest.mark.parametrize(
    "words, kind",
    [
        (("run", "runs/one"), "run"),
        (("scaling", "scaling.json"), "scaling"),
        (("phase", "results", "--set", "sound"), "phase"),
        (("daily", "--runs", "runs"), "daily"),
        (("weekly", "--runs", "runs"), "weekly"),
        (("monthly", "--runs", "."), "monthly"),
        (("briefing", "results"), "briefing"),
    ],
)
def test_every_kind_writes_three_forms_and_prints_their_paths(recorded, tmp_path, monkeypatch, words, kind):
    monkeypatch.chdir(recorded)
    done = ran(*words, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output + repr(done.exception)
    paths = done.output.split()
    assert [path.rpartition("/")[2] for path in paths] == [f"{kind}.{form}" for form in ("html", "md", "json")]
    assert json.loads((tmp_path / "out" / f"{kind}.json").read_text())["kind"] == kind


def test_without_out_the_report_has_a_folder_of_its_own(recorded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = ran("run", recorded / "runs" / "one", "--format", "md")
    assert done.output.split() == ["reports/run-one/run.md"]


def test_several_runs_have_a_folder_each(recorded, tmp_path):
    done = ran("run", recorded / "runs/one", recorded / "runs/two", "--out", tmp_path, "--format", "json")
    assert (tmp_path / "one" / "run.json").exists() and (tmp_path / "two" / "run.json").exists(), done.output


@pytest.mark.parametrize(
    "words, message",
    [
        (("run", "absent"), "no run directory at absent"),
        (("run", "."), "is no run directory"),
        (("run", "runs/one", "runs/two", "--out", "one.html"), "is one file, and there are 2 runs"),
        (("run", "runs/one", "runs/one"), "the same name"),
        (("run",), "Missing argument"),
        (("run", "runs/one", "--format", "pdf"), "'pdf' is no form of a report"),
        (("scaling", "runs/one/config.yaml"), "no scaling report"),
        (("phase", "runs"), "is no results folder"),
        (("phase", "results", "--set", "mine"), "mine"),
        (("daily", "--runs", "absent"), "no directory at absent"),
        (("briefing",), "Missing argument"),
        (("briefing", "results", "absent"), "no results folder at absent"),
        (("run", "runs/one", "--out", "scaling.json/below"), "can't be written"),
    ],
)
def test_what_is_wrong_is_refused_with_words(recorded, monkeypatch, words, message):
    monkeypatch.chdir(recorded)
    assert message in refused(*words)
