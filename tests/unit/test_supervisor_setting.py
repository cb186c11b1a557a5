"""From the command line to a job: what is wrong is told before anything is started."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from ryzen_mpi import supervise
from ryzen_mpi.cluster.slurm import Allocation
from ryzen_mpi.errors import UserError
from ryzen_mpi.supervisor import setting

PROGRAM = ["python", "-m", "ryzen_mpi.train"]
THREE = Allocation("7", ("n1", "n2", "n3"), 4, 0, True)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory, no Slurm job, and this process no reaper of others' children."""
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(setting, "_PR_SET_CHILD_SUBREAPER", 37)  # PR_GET_CHILD_SUBREAPER, which changes nothing


def job(words: str, *, run_dir: str | None = None, allocation=None, per_node: int | None = None):
    return setting.read_job([*words.split(), *PROGRAM], run_dir, allocation, per_node, 5)


def refusal(words: str, **options: object) -> UserError:
    with pytest.raises(UserError) as refused:
        job(words, **options)
    return refused.value


# -- nodes ------------------------------------------------------------------------------------------------------------


def test_a_number_of_nodes_that_the_allocation_has_not_is_refused_with_what_it_has():
    with pytest.raises(UserError, match=r"4 nodes asked for, 3 got \(n1, n2, n3\)"):
        setting.check_nodes(THREE, 4)
    with pytest.raises(UserError, match="3 nodes asked for, but this is no Slurm job"):
        setting.check_nodes(None, 3)
    for fits in ((THREE, 3), (None, 1), (THREE, None), (None, None)):
        setting.check_nodes(*fits)


# -- ranks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "options", "wanted"),
    [
        ("mpirun -np 2", {}, 2),
        ("", {}, 1),
        ("mpirun", {"per_node": 3}, 3),
        ("auto", {"allocation": THREE}, 12),
        ("auto", {"allocation": THREE, "per_node": 2}, 6),
        ("mpirun -np 5", {"allocation": THREE}, 5),
    ],
)
def test_the_ranks_wanted_are_those_of_the_command_or_what_the_nodes_hold(words, options, wanted):
    assert job(words, **options)[1] == wanted


@pytest.mark.parametrize(
    ("words", "options", "told"),
    [
        ("mpirun", {}, "how many ranks?"),
        ("mpirun -np 13", {"allocation": THREE}, "13 ranks asked for, but 3 node(s) of 4 ranks hold 12"),
        ("mpirun -np 3", {"per_node": 2}, "3 ranks asked for, but 1 node(s) of 2 ranks hold 2"),
        ("auto -np 2", {}, "launcher auto needs a Slurm job"),
        ("srun -n 2", {}, "launcher srun needs a Slurm job"),
    ],
)
def test_what_cannot_be_started_is_refused(words, options, told):
    assert told in refusal(words, **options).message


# -- the program's own settings ---------------------------------------------------------------------------------------


def test_the_programs_settings_are_the_supervisors_too():
    words = ["mpirun", "-np", "4", *PROGRAM, "distributed.timeout_s=7", "distributed.min_processes=2"]
    found, _ = setting.read_job(words, "run", None, None, 3)
    assert (found.limits.timeout_s, found.least, found.retries) == (7.0, 2, 3)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("training.sed=1", "did you mean seed?"),
        ("--config=defalt", "did you mean default?"),
        ("training.max_steps=many", "training.max_steps"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_started(word, told, tmp_path):
    done = CliRunner().invoke(supervise.command, ["--run-dir", "run", "--", "mpirun", "-np", "2", *PROGRAM, word])
    assert done.exit_code == 2 and told in done.output and "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


# -- the run directory ------------------------------------------------------------------------------------------------


def test_the_run_directory_is_the_programs_or_is_given_to_it(tmp_path):
    found, _ = job("mpirun -np 2", run_dir="a")
    assert found.run.path == tmp_path / "a" and found.command.program[-2:] == ("--run-dir", str(tmp_path / "a"))
    words = ["mpirun", "-np", "2", *PROGRAM, "--run-dir", "b"]
    for given in ("b", None):
        found, _ = setting.read_job(words, given, None, None, 5)
        assert found.run.path == tmp_path / "b" and found.command.program.count("--run-dir") == 1
    found, _ = job("mpirun -np 2")  # the program's own choice, made once for all attempts
    assert found.run.path.parent == tmp_path / "runs" and str(found.run.path) in found.command.program


def test_two_run_directories_are_refused():
    with pytest.raises(UserError, match="two run directories: a and b"):
        setting.read_job(["mpirun", "-np", "2", *PROGRAM, "--run-dir=b"], "a", None, None, 5)


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "LAUNCHER"),
        (["--nodes", "0", "--", "mpirun", "-np", "2", *PROGRAM], "--nodes"),
        (["--retries", "-1", "--", "mpirun", "-np", "2", *PROGRAM], "--retries"),
        (["--nodes", "4", "--", "mpirun", "-np", "2", *PROGRAM], "this is no Slurm job"),
        (["--", "auto", *PROGRAM], "how many ranks?"),
        (["--", "mpirun", "-np", "2", "./train.sh"], "no program"),
        (["--colour", "red", "--", "mpirun", "-np", "2", *PROGRAM], "--colour"),
    ],
)
def test_wrong_use_ends_with_2_and_a_sentence(words, told, tmp_path):
    done = CliRunner().invoke(supervise.command, words)
    assert done.exit_code == 2 and told in done.output and "Traceback" not in done.output, done.output
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_that_is_not_there_is_named(tmp_path):
    words = [sys.executable, "-m", "ryzen_mpi.supervise", "--run-dir", "run", "--"]
    missing = tmp_path / "bin/mpirun"
    done = subprocess.run([*words, str(missing), "-np", "2", *PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"error: {missing} can't be started: No such file or directory" in done.stderr


def test_a_file_in_place_of_the_run_directory_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    done = CliRunner().invoke(supervise.command, ["--run-dir", "run", "--", "mpirun", "-np", "2", *PROGRAM])
    assert done.exit_code == 2 and f"run directory {tmp_path / 'run'} can't be written" in done.output
