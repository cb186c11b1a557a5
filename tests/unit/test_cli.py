"""The command line: commands by name, and errors as sentences with exit code 2."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from ryzen_mpi import __version__
from ryzen_mpi.cli import _COMMANDS, group
from ryzen_mpi.settings import profile_names

MODULE = [sys.executable, "-m", "ryzen_mpi"]


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*MODULE, *words], capture_output=True, text=True, timeout=120)


def test_help_lists_every_command_with_its_line():
    done = run("--help")
    assert done.returncode == 0 and not done.stderr
    for name, (_, _, text) in _COMMANDS.items():
        assert f"  {name}" in done.stdout and text[:30] in done.stdout


def test_the_version_is_the_packages():
    assert run("--version").stdout == f"ryzen-mpi, version {__version__}\n"


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_help_under_its_own_name(name):
    done = CliRunner().invoke(group, [name, "--help"])
    assert done.exit_code == 0 and f" {name} " in done.output.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "trian"),
        (["config", "--ranks", "0"], "--ranks"),
        (["config", "--config", "defalt"], "did you mean default?"),
        (["config", "training.sed=1"], "did you mean seed?"),
        (["generate", "--run", "/nowhere", "--prompt", "x"], "no run directory"),
    ],
)
def test_what_a_person_got_wrong_is_told_without_a_traceback(words, told):
    done = run(*words)
    assert done.returncode == 2
    assert told in done.stderr and "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize("name", profile_names())
def test_config_shows_every_profile_with_parameters_and_memory(name):
    done = CliRunner().invoke(group, ["config", "--config", name, "training.seed=77"])
    assert done.exit_code == 0, done.output
    shown, _, table = done.output.partition("reckoned")
    assert yaml.safe_load(shown)["training"]["seed"] == 77
    assert "parameters" in table and "memory of a node of 4 ranks" in table


def test_config_reckons_for_the_ranks_asked_for():
    done = CliRunner().invoke(group, ["config", "--ranks", "3", "training.batch_size=8"])
    assert "24 samples a step on 3 ranks" in done.output
