"""`ryzen-mpi submit`, with an sbatch that writes down what it was asked; a real one is in tests/lab."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from ryzen_mpi.cluster.phases import PHASES, phase
from ryzen_mpi.commands import submit
from ryzen_mpi.commands.submit import Choices, command, render, seconds, time_text
from ryzen_mpi.errors import UserError

REPO = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """An sbatch that takes every job as number 42, and the words it got."""
    monkeypatch.chdir(tmp_path)
    asked = tmp_path / "asked"
    fake = tmp_path / "bin/sbatch"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{asked}\necho "42;cluster"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    return lambda: asked.read_text().splitlines() if asked.exists() else None


def invoke(*words: str):
    return CliRunner().invoke(command, words)


def refusal(*words: str) -> str:
    done = invoke(*words)
    assert isinstance(done.exception, UserError), (done.output, done.exception)
    return str(done.exception)


@pytest.mark.parametrize("row", PHASES.values(), ids=PHASES)
def test_the_files_in_slurm_are_what_a_dry_run_prints(row):
    text = (REPO / f"slurm/phase{row.name}.sh").read_text()
    assert text == render(row)
    for name in (row.name, row.job_name, row.job_name.upper()):
        done = invoke(name, "--dry-run")
        assert done.exit_code == 0 and done.output == text


@pytest.mark.parametrize(
    ("golden", "words"),
    [
        (
            "phase2b-partition-account-time.sh",
            ["phase2b", "--partition", "long", "--account", "physics", "--time", "12:00:00"],
        ),
        ("phase1-time.sh", ["phase1", "--time", "00:10:00"]),
        ("phase2c-partition.sh", ["phase2c", "--partition=debug"]),
    ],
)
def test_a_dry_run_shows_what_partition_account_and_time_change(golden, words):
    done = invoke(*words, "--dry-run", "training.max_steps=5")
    assert done.exit_code == 0 and done.output == (GOLDEN / golden).read_text()


def test_the_table_is_that_of_the_phases():
    assert {p.name: (p.nodes, p.ranks, p.soak_s // 3600) for p in PHASES.values()} == {
        "1": (1, 4, 24),
        "2a": (2, 8, 48),
        "2b": (3, 12, 24),
        "2c": (4, 16, 48),
    }
    for row in PHASES.values():  # Slurm may warn a minute early: the soak has been run by then
        assert row.soak_s < row.limit_s - row.warning_s - 60


@pytest.mark.parametrize("name", ["3", "phase", "2B ", "", "phase2d", "../x"])
def test_a_phase_that_is_none_is_refused_with_those_there_are(name):
    with pytest.raises(UserError, match="phases: phase1, phase2a, phase2b, phase2c"):
        phase(name)


def test_sbatch_gets_the_file_in_slurm_and_what_follows_is_for_training(sbatch, tmp_path):
    done = invoke("phase2b", "--partition", "long", "--time", "00:20:00", "training.max_steps=5", "training.seed=2")
    assert done.exit_code == 0, done.exception
    file = str(REPO / "slurm/phase2b.sh")
    options = ["--partition=long", "--time=00:20:00", "--signal=B:USR1@300"]
    assert sbatch() == ["--parsable", *options, file, "training.max_steps=5", "training.seed=2"]
    assert shlex.split(done.output.splitlines()[0])[:2] == ["sbatch", "--partition=long"]
    assert "job 42\n" in done.output
    assert f"{tmp_path}/phase2b-42.out\n" in done.output and f"{tmp_path}/runs/phase2b-42\n" in done.output


def test_profile_and_run_directory_are_handed_on(sbatch, tmp_path):
    done = invoke("1", "--config", "scaling_benchmark", "--run-dir", "a b", "training.seed=2")
    assert done.exit_code == 0, done.exception
    assert sbatch()[2:] == ["--config", "scaling_benchmark", "--run-dir", "a b", "training.seed=2"]
    assert f"{tmp_path}/a b\n" in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["phase2e"], "there is no phase 'phase2e'"),
        (["1", "--time", "1h"], "HH:MM:SS"),
        (["1", "--time", "10"], "HH:MM:SS"),
        (["1", "--time", "01:60:00"], "HH:MM:SS"),
        (["1", "--time", "01:00:00\n#SBATCH --wrap"], "HH:MM:SS"),
        (["1", "--time", "00:00:00"], "too short"),  # no limit at all, to Slurm
        (["1", "--partition", "a\n#SBATCH --uid=0"], "no name Slurm could know"),
        (["1", "--partition", "a b"], "no name Slurm could know"),
        (["1", "--partition", "--wrap=x"], "no name Slurm could know"),
        (["1", "--account", "$(id)"], "no name Slurm could know"),
        (["1", "--account", ""], "no name Slurm could know"),
        (["1", "training.sed=1"], "did you mean seed?"),
        (["1", "--config", "defalt"], "did you mean default?"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_slurm_or_training_would_refuse_is_refused_before(sbatch, words, told, dry):
    assert told in refusal(*words, *(["--dry-run"] if dry else []))
    assert sbatch() is None


def test_a_machine_without_slurm_is_told_and_shown_the_way(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refusal("phase1")
    assert "this machine has no Slurm" in said and "--dry-run" in said
    assert invoke("phase1", "--dry-run").exit_code == 0


def test_slurms_own_words_are_told_when_it_refuses(sbatch, tmp_path):
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1")
    assert "invalid partition specified: x" in refusal("phase1", "--partition", "x")


def test_without_a_checkout_it_is_said_that_one_is_needed(sbatch, tmp_path, monkeypatch):
    monkeypatch.setattr(submit, "CHECKOUT", tmp_path)
    assert "submit from a checkout" in refusal("phase1")


def test_a_short_limit_keeps_most_of_its_time_for_training():
    row = PHASES["1"]
    assert Choices(time="00:04:00").directives(row)["signal"] == "B:USR1@60"
    assert Choices(time="3-00:00:00").directives(row)["signal"] == f"B:USR1@{row.warning_s}"


@pytest.mark.parametrize("text", ["00:01:00", "23:59:59", "1-00:30:00", "30-00:00:00"])
def test_times_are_read_as_they_are_written(text):
    assert time_text(seconds(text)) == text


def test_a_day_in_hours_is_a_day():
    assert seconds("24:00:00") == seconds("1-00:00:00") == 86400
