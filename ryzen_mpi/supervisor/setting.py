"""From the command line to a job: what is supervised, on which nodes, started by what."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ryzen_mpi.cluster import slurm
from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import RunDirectory, new_run_path
from ryzen_mpi.settings import DEFAULT_PROFILE, load_settings
from ryzen_mpi.supervisor import networks
from ryzen_mpi.supervisor.job import Job
from ryzen_mpi.supervisor.launcher import AUTO, SRUN, Command, option, overrides, parse
from ryzen_mpi.supervisor.ledger import Summary
from ryzen_mpi.supervisor.nodes import Nodes, SlurmNodes, ThisMachine
from ryzen_mpi.supervisor.policy import place
from ryzen_mpi.supervisor.voice import Voice
from ryzen_mpi.supervisor.watch import Limits
from ryzen_mpi.units import duration_text

TRY_S = 60.0
"""Seconds a launcher has to show that it works."""
_PR_SET_CHILD_SUBREAPER = 36


def check_nodes(allocation: slurm.Allocation | None, nodes: int | None) -> None:
    """Raises UserError where the allocation is not of `nodes` nodes."""
    if nodes is None:
        return
    if allocation is None and nodes > 1:
        raise UserError(f"{nodes} nodes asked for, but this is no Slurm job", "sbatch slurm/phase2b.sh; or one node")
    got = 1 if allocation is None else len(allocation.nodes)
    if got != nodes:
        raise UserError(
            f"{nodes} nodes asked for, {got} got ({', '.join(allocation.nodes)})", f"sbatch --nodes={nodes}"
        )


def read_job(
    words: Sequence[str],
    run_dir: str | None,
    allocation: slurm.Allocation | None,
    ranks_per_node: int | None,
    retries: int,
) -> tuple[Job, int]:
    """The job, and the ranks that are wanted. Raises UserError for whatever the program itself would refuse at once."""
    command = parse(words)
    program = command.program
    config = option(program, "--config") or DEFAULT_PROFILE
    settings = load_settings(config, overrides(program))
    given = option(program, "--run-dir")
    if run_dir and given and Path(run_dir) != Path(given):
        raise UserError(f"two run directories: {run_dir} and {given}", "give --run-dir once")
    path = Path(run_dir or given or new_run_path(config)).expanduser().absolute()
    if given is None:
        command = replace(command, program=(*program, "--run-dir", str(path)))
    # The supervisor's children that lose their parent become its own: none can slip away.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    nodes: Nodes = ThisMachine() if allocation is None else SlurmNodes(allocation)
    per_node = ranks_per_node or (allocation.tasks_per_node if allocation is not None else None)
    wanted = command.ranks or (per_node * len(nodes.names) if per_node else None)
    if wanted is None:
        raise UserError("how many ranks? The launcher does not say", "mpirun -np N …, or --ranks-per-node N")
    if per_node and wanted > per_node * len(nodes.names):
        raise UserError(
            f"{wanted} ranks asked for, but {len(nodes.names)} node(s) of {per_node} ranks hold "
            f"{per_node * len(nodes.names)}"
        )
    if allocation is None and command.kind in (AUTO, SRUN):
        raise UserError(f"launcher {command.kind} needs a Slurm job, and this is none", "mpirun -np N python …")
    limits = Limits(timeout_s=settings.distributed.timeout_s)
    least, interfaces = settings.distributed.min_processes, settings.distributed.interfaces
    return Job(RunDirectory(path), command, nodes, per_node, least, retries, limits, interfaces), wanted


def choose_launcher(job: Job, voice: Voice) -> Command:
    """The command with a launcher that works here, where it was left to us. Raises UserError with what was tried."""
    if job.command.kind != AUTO:
        return job.command
    tried = []
    for name in ("mpirun", SRUN):
        command = job.command.with_launcher(name)
        problem = _try(command, job)
        if problem is None:
            passed = f" ({'; '.join(tried)})" if tried else ""
            voice.say("launcher", f"launcher: {name}, it reached all {len(job.nodes.names)} nodes{passed}")
            return command
        tried.append(f"{name}: {problem}")
    raise UserError("no launcher works here: " + "; ".join(tried), "module load an MPI in env/modules.sh; see README")


_PROBE = (
    "from mpi4py import MPI; c = MPI.COMM_WORLD; n = c.allgather(MPI.Get_processor_name()); print('world', len(set(n)))"
)


def _try(command: Command, job: Job) -> str | None:
    """Why this launcher can't start an MPI program of one rank a node; None where it can."""
    if shutil.which(command.launcher[0]) is None:
        return "not on PATH"
    if command.kind == SRUN and not slurm.has_pmix():
        return "this Slurm has no PMIx (srun --mpi=list)"
    answering, _ = job.nodes.answering()
    if not answering:
        return "no node answers"
    hosts = place(len(answering), answering, 1)
    probe = replace(command, program=(sys.executable, "-c", _PROBE))
    words = probe.bare(len(answering), hosts if len(job.nodes.names) > 1 else {})
    try:
        variables = os.environ | networks.environment(job.interfaces, ())
        done = subprocess.run(
            words, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TRY_S
        )
    except subprocess.TimeoutExpired:
        return f"a small MPI program did not end in {TRY_S:g} s"
    if f"world {len(answering)}\n" in done.stdout:
        return None
    said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    return next((line for line in said if line.strip(" -*")), "no output")[:200]


def show(summary: Summary, path: Path, code: int) -> None:
    """The account as lines on standard error."""
    from ryzen_mpi.supervisor.run import COMPLETE, STOPPED

    how = {COMPLETE: "complete", STOPPED: "stopped, saved"}.get(code, "failed")
    causes = ", ".join(f"{count} {kind}" for kind, count in sorted(summary.causes.items())) or "none"
    rows = (
        ("run", f"{path}: {how}"),
        ("attempts", f"{summary.attempts}, ended by faults: {summary.faults} ({causes})"),
        ("steps", f"{summary.steps}, of which {summary.repeated} were trained again after a fault"),
        ("time", f"{duration_text(summary.total_s)}, productive {duration_text(summary.productive_s)}"),
        ("ETTR", f"{100 * summary.ettr:.1f} % (productive / total)"),
    )
    for name, text in rows:
        print(f"supervisor  {name:<10}{text}", file=sys.stderr, flush=True)
