"""What Slurm knows of this job, and what it can be asked to do. Local; every command has a time limit.

A command that is missing is a UserError. An answer that fails to come is a reason in words, never an exception: these
questions are asked in the middle of faults.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from ryzen_mpi.errors import UserError

CONTROLLER_AWAY = "Slurm's controller does not answer"
"""The reason where it may be that, and no node's fault: ask again later."""

QUESTION_TIMEOUT_S = 15.0
"""For questions to the controller: it may be restarting, and Slurm's own commands try for some seconds."""

_NO_CONTROLLER = re.compile(
    r"unable to contact slurm controller|slurm_load_\w+ error: .*(connect|contact|timed out)|"
    r"socket timed out on send/recv|zero bytes were transmitted or received|connection refused",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^\S+: (error|fatal|warning): ")


@dataclass(frozen=True)
class Allocation:
    """The Slurm job this process runs in.

    Attributes:
        job_id: number of the job; stays when it is requeued.
        nodes: names in Slurm's order, as they were when the job (re)started; the first runs the batch script.
        tasks_per_node: ranks each node was asked to hold; the least where they differ.
        restarts: how often it was requeued.
        requeue_allowed: whether Slurm may requeue it; None when the controller did not say.
    """

    job_id: str
    nodes: tuple[str, ...]
    tasks_per_node: int
    restarts: int
    requeue_allowed: bool | None


@dataclass(frozen=True)
class _Answer:
    """What a command said. `code` is None when it was ended because its time was up."""

    code: int | None
    output: str
    errors: str

    def reason(self) -> str:
        """Why it failed, in the command's own words."""
        if _NO_CONTROLLER.search(self.errors):
            return CONTROLLER_AWAY
        if self.code is None:
            return "no answer in time"
        lines = [_PREFIX.sub("", line).strip() for line in self.errors.splitlines() if line.strip()]
        return lines[0] if lines else f"exit code {self.code}"


def allocation(environment: Mapping[str, str] | None = None) -> Allocation | None:
    """The job this process runs in, or None outside Slurm. Raises UserError."""
    environment = os.environ if environment is None else environment
    job_id, node_list = environment.get("SLURM_JOB_ID"), environment.get("SLURM_JOB_NODELIST")
    if not job_id or not node_list:
        return None
    nodes = _ask(["scontrol", "show", "hostnames", node_list])
    if nodes.code != 0 or not nodes.output.split():
        raise UserError(f"Slurm does not say which nodes {node_list} are: {nodes.reason()}")
    counts = environment.get("SLURM_NTASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or "1"
    restarts = environment.get("SLURM_RESTART_COUNT", "0")
    return Allocation(
        job_id,
        tuple(nodes.output.split()),
        _least_count(counts),
        int(restarts) if restarts.isdigit() else 0,
        _requeue_allowed(job_id),
    )


def answering_nodes(allocation: Allocation, nodes: Iterable[str], timeout_s: float) -> dict[str, str | None]:
    """Which of `nodes` start a program now: None if one does, else why not, after `timeout_s` a node at most.

    All are asked at once. `CONTROLLER_AWAY` for all that failed where it may be no node's fault. Raises UserError.
    """
    names = list(dict.fromkeys(nodes))
    with ThreadPoolExecutor(max(1, len(names))) as threads:
        answers = list(threads.map(lambda name: _ask(_probe(allocation, name), timeout_s), names))
    reasons = {name: None if a.code == 0 else a.reason() for name, a in zip(names, answers, strict=True)}
    # srun waits for the controller longer than we wait for srun: silence may be that
    away = CONTROLLER_AWAY in reasons.values() or any(a.code is None for a in answers) and not controller_answers()
    # For seconds after its start the controller refuses everything ("Memory required by task is not available"). Where
    # it does not refuse all, an unknown node is one that was lost while the controller was away.
    if away or None not in reasons.values() and any(node_state(name) == "unknown" for name in names):
        return {name: reason and CONTROLLER_AWAY for name, reason in reasons.items()}
    return reasons


def controller_answers() -> bool:
    """Whether Slurm's controller, or its backup, is up. Raises UserError."""
    return re.search(r"\bis UP\b", _ask(["scontrol", "ping"]).output) is not None


def requeue(allocation: Allocation) -> str | None:
    """Has Slurm end this job and queue it again; None if it will, else why not. Raises UserError.

    Slurm then ends everything in the job, this process included, within KillWait seconds.
    """
    answer = _ask(["scontrol", "requeue", allocation.job_id])
    return None if answer.code == 0 else answer.reason()


def job_state(allocation: Allocation) -> str:
    """Slurm's word for this job: RUNNING, COMPLETING, ...; "unknown" where Slurm does not say. Raises UserError."""
    answer = _ask(["squeue", "--noheader", f"--jobs={allocation.job_id}", "--format=%T"])
    words = answer.output.split()
    return words[0] if answer.code == 0 and words else "unknown"


def node_state(name: str) -> str:
    """Slurm's word for the node: idle, mixed, allocated, down, ..., a star behind it: it does not respond.

    "unknown (reason)" where Slurm does not say. Raises UserError.
    """
    answer = _ask(["sinfo", "--noheader", "--Node", f"--nodes={name}", "--format=%T"])
    words = answer.output.split()
    if answer.code == 0 and words:
        return words[0]
    return f"unknown ({answer.reason() if answer.code != 0 else 'Slurm knows no such node'})"


def has_pmix() -> bool:
    """Whether srun can start MPI programs through PMIx. Raises UserError."""
    answer = _ask(["srun", "--mpi=list"])
    return re.search(r"\bpmix", answer.output + answer.errors) is not None  # srun lists on standard error


def _probe(allocation: Allocation, node: str) -> list[str]:
    where = ["--nodes=1", "--ntasks=1", f"--nodelist={node}"]
    # --overlap: beside whatever runs there. The MPI plug-in and the input are left out: they are not what is asked for.
    return ["srun", f"--jobid={allocation.job_id}", *where, "--overlap", "--mpi=none", "--input=none", "true"]


def _requeue_allowed(job_id: str) -> bool | None:
    answer = _ask(["scontrol", "--oneliner", "show", "job", job_id])
    found = re.search(r"\bRequeue=([01])\b", answer.output) if answer.code == 0 else None
    return None if found is None else found[1] == "1"


def _least_count(text: str) -> int:
    """The least of Slurm's counts a node: "4(x2),3" -> 3."""
    return min((int(count) for count in re.findall(r"(?<!x)(?<!\d)\d+", text)), default=1)


def _ask(words: Sequence[str], timeout_s: float = QUESTION_TIMEOUT_S) -> _Answer:
    """Runs a command of Slurm. Raises UserError where it is missing."""
    # The job's own SLURM_ variables are options to srun (so many tasks a node, ...): not for a question.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SRUN_")) or k == "SLURM_CONF"}
    try:
        process = subprocess.Popen(
            words,
            env=environment | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C meant for the supervisor is not for its questions
        )
    except OSError as error:
        raise UserError(
            f"{words[0]} can't be run: {error.strerror}", "this needs Slurm's commands on the node of the batch script"
        ) from None
    try:
        output, errors = process.communicate(timeout=timeout_s)
        return _Answer(process.returncode, output, errors)
    except subprocess.TimeoutExpired:
        return _Answer(None, *_end(process))


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ends a command and all it started: in order if it will, which also ends a step of srun's, else at once."""
    for number, patience_s in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=patience_s)
    return "", ""  # what left the session holds the pipes
