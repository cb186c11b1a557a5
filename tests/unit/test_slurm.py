"""What Slurm's commands say, read from commands that say it: the real ones run in tests/lab."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ryzen_mpi.cluster import slurm
from ryzen_mpi.cluster.slurm import CONTROLLER_AWAY, Allocation
from ryzen_mpi.errors import UserError

JOB = Allocation("7", ("a", "b", "c"), 4, 0, True)
ENVIRONMENT = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "4(x3)"}
SCONTROL = """
case "$*" in
    "show hostnames n[1-3]") printf 'n1\\nn2\\nn3\\n' ;;
    "--oneliner show job 7") echo "JobId=7 JobName=x Requeue=1 Restarts=2 Command=/x/phase2b.sh a=1" ;;
    ping) echo "Slurmctld(primary) at head is UP" ;;
    *) echo "scontrol: error: what is $*?" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Makes a command of a few lines of shell; there are no others but those of the system."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")

    def make(**bodies: str) -> Path:
        for name, body in bodies.items():
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)
        return folder

    return make


def test_outside_slurm_there_is_no_allocation():
    assert slurm.allocation({}) is None
    assert slurm.allocation({"SLURM_JOB_ID": "7"}) is None


def test_an_allocation_is_read_from_the_variables_and_from_slurm(commands):
    commands(scontrol=SCONTROL)
    assert slurm.allocation(ENVIRONMENT) == Allocation("7", ("n1", "n2", "n3"), 4, 0, True)
    assert slurm.allocation(ENVIRONMENT | {"SLURM_RESTART_COUNT": "2"}).restarts == 2
    assert slurm.allocation(ENVIRONMENT | {"SLURM_NTASKS_PER_NODE": "2"}).tasks_per_node == 2


@pytest.mark.parametrize(("text", "least"), [("4", 4), ("4(x3)", 4), ("4(x12),3", 3), ("3,16(x2)", 3), ("", 1)])
def test_the_least_count_of_tasks_a_node_counts(commands, text, least):
    commands(scontrol=SCONTROL)
    assert slurm.allocation(ENVIRONMENT | {"SLURM_TASKS_PER_NODE": text}).tasks_per_node == least


@pytest.mark.parametrize(("said", "allowed"), [("Requeue=0", False), ("nothing", None)])
def test_whether_requeue_is_allowed_is_what_slurm_says(commands, said, allowed):
    commands(scontrol=SCONTROL.replace("Requeue=1", said))
    assert slurm.allocation(ENVIRONMENT).requeue_allowed is allowed


def test_a_missing_command_is_a_user_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (lambda: slurm.allocation(ENVIRONMENT), lambda: slurm.requeue(JOB)):
        with pytest.raises(UserError, match="scontrol can't be run"):
            ask()
    with pytest.raises(UserError, match="srun can't be run"):
        slurm.answering_nodes(JOB, ["a"], 1)
    with pytest.raises(UserError, match="srun can't be run"):
        slurm.has_pmix()
    with pytest.raises(UserError, match="sinfo can't be run"):
        slurm.node_state("a")


def test_nodes_that_slurm_does_not_know_are_a_user_error(commands):
    commands(scontrol="echo 'scontrol: error: Invalid hostlist' >&2; exit 1")
    with pytest.raises(UserError, match="Invalid hostlist"):
        slurm.allocation(ENVIRONMENT)


def test_every_node_is_asked_and_a_failure_has_its_reason(commands):
    commands(
        scontrol=SCONTROL,
        sinfo="echo down",
        srun="""
case "$*" in
    *nodelist=b*) echo "srun: error: Unable to create step for job 7: Requested node not available" >&2; exit 1 ;;
    *nodelist=c*) exit 3 ;;
    *--jobid=7*--overlap*true) ;;
    *) exit 4 ;;
esac""",
    )
    assert slurm.answering_nodes(JOB, ["a", "b", "c"], 30) == {
        "a": None,
        "b": "Unable to create step for job 7: Requested node not available",
        "c": "exit code 3",
    }
    assert slurm.answering_nodes(JOB, [], 30) == {}


def test_the_jobs_own_options_are_kept_from_the_question(commands, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    monkeypatch.setenv("SLURM_CONF", "/etc/x.conf")
    commands(srun='[ -z "$SLURM_NTASKS_PER_NODE" ] && [ "$SLURM_CONF" = /etc/x.conf ]')
    assert slurm.answering_nodes(JOB, ["a"], 30) == {"a": None}


def test_a_node_that_does_not_answer_holds_up_no_other_and_is_given_up(commands, tmp_path):
    commands(
        scontrol=SCONTROL,
        srun=f"trap '' TERM\ncase \"$*\" in *nodelist=a*) ;; *) echo $$ >>{tmp_path}/pids; sleep 60; sleep 60 ;; esac",
    )
    began = time.monotonic()
    reasons = slurm.answering_nodes(JOB, ["a", "b", "c"], 1)
    assert reasons == {"a": None, "b": "no answer in time", "c": "no answer in time"}
    assert time.monotonic() - began < 30
    assert not any(Path("/proc", pid).exists() for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize(
    "said",
    [
        "srun: error: Unable to confirm allocation for job 7: Unable to contact slurm controller (connect failure)",
        "srun: error: Unable to create step for job 7: Zero Bytes were transmitted or received",
        "srun: error: slurm_receive_msgs: Socket timed out on send/recv operation",
    ],
)
def test_a_controller_that_is_away_is_told_from_a_node_that_is(commands, said):
    commands(srun=f"case $* in *nodelist=a*) echo '{said}' >&2; exit 1 ;; esac")
    assert slurm.answering_nodes(JOB, ["a", "b"], 30) == {"a": CONTROLLER_AWAY, "b": None}


def test_a_controller_that_has_just_started_refuses_what_it_does_not_know_yet(commands):
    refusal = "srun: error: Unable to create step for job 7: Memory required by task is not available"
    commands(srun=f"case $* in *nodelist=b*) echo '{refusal}' >&2; exit 1 ;; esac", sinfo="echo unknown")
    assert slurm.answering_nodes(JOB, ["b"], 30) == {"b": CONTROLLER_AWAY}
    reasons = slurm.answering_nodes(JOB, ["a", "b"], 30)  # b has been lost since
    assert reasons["a"] is None and reasons["b"].endswith("Memory required by task is not available")
    commands(sinfo="echo 'down*'")
    assert slurm.answering_nodes(JOB, ["b"], 30)["b"].endswith("Memory required by task is not available")


def test_silence_is_the_controllers_fault_when_it_is_down(commands):
    commands(srun="sleep 60", scontrol="echo 'Slurmctld(primary) at head is DOWN'; exit 1")
    assert slurm.answering_nodes(JOB, ["a", "b"], 0.5) == {"a": CONTROLLER_AWAY, "b": CONTROLLER_AWAY}


def test_requeue_tells_why_slurm_would_not(commands, tmp_path):
    commands(scontrol=f"echo $* >{tmp_path}/asked")
    assert slurm.requeue(JOB) is None
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    commands(scontrol="echo 'Requested operation is presently disabled for job 7' >&2; exit 1")
    assert slurm.requeue(JOB) == "Requested operation is presently disabled for job 7"


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("printf 'idle\\nidle\\n'", "idle"),  # a line for each partition
        ("echo 'down*'", "down*"),
        ("true", "unknown (Slurm knows no such node)"),
        (
            "echo 'slurm_load_partitions: Unable to contact slurm controller (connect failure)' >&2; exit 1",
            f"unknown ({CONTROLLER_AWAY})",
        ),
    ],
)
def test_the_state_of_a_node_is_slurms_word_or_a_reason(commands, body, state):
    commands(sinfo=body)
    assert slurm.node_state("a") == state


@pytest.mark.parametrize(("listed", "there"), [("none pmix pmix_v4 pmi2", True), ("none cray_shasta pmi2", False)])
def test_pmix_is_looked_for_in_what_srun_lists(commands, listed, there):
    commands(srun=f'for name in {listed}; do echo "\t$name" >&2; done')
    assert slurm.has_pmix() is there
