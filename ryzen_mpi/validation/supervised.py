"""A supervised run of a check's own: started, watched, made to suffer, stopped. Local; one process uses it."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.scaling import launch
from ryzen_mpi.supervisor.files import Files
from ryzen_mpi.supervisor.ledger import Record
from ryzen_mpi.supervisor.state import load_state

T = TypeVar("T")
_LIBC, _PR_SET_PDEATHSIG = ctypes.CDLL(None), 1
MAIN_JOB = ("-m", "ryzen_mpi.train")
LEAVE_S = 60.0
"""For saving and leaving, before all is killed."""
LOOK_S = 0.05


class Supervised:
    """`python -m ryzen_mpi.supervise … -- mpirun … python -m ryzen_mpi.train` in a folder.

    As a context it stops the run when it is left; where this process is killed, the supervisor is told to stop.

    Args:
        folder: of the check; the run is `folder/run`, continued where it has been before.
        ranks, per_node: to start, and the most a node takes.
        program: what follows `python`; the main job without its arguments. Tests give another.
    """

    def __init__(
        self,
        folder: Path,
        ranks: int,
        per_node: int,
        program: Sequence[str] = MAIN_JOB,
    ) -> None:
        self.path, self.ranks, self.per_node, self.program = folder / "run", ranks, per_node, tuple(program)
        self.log = folder / "supervisor.log"
        self.files = Files(RunDirectory(self.path))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Supervised:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, words: Sequence[str]) -> None:
        """Starts or continues the run; `words`: the main job's arguments."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        job = launch.command(self.ranks, (*self.program, *words), launch.Nodes())  # the supervisor adds the nodes
        command = [sys.executable, "-m", "ryzen_mpi.supervise", "--run-dir", str(self.path)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--ranks-per-node", str(self.per_node), "--", *job],
                env=launch.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_stop_with_parent,
            )

    def stop(self) -> int | None:
        """Has the ranks save and leave; returns the supervisor's exit code, None where it was never started."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                self._kill()
        return process.returncode

    def ended(self) -> int | None:
        """The supervisor's exit code where it has ended."""
        assert self._process is not None
        return self._process.poll()

    def records(self) -> list[Record]:
        """The attempts so far."""
        return load_state(self.files.state).records if self.files.state.exists() else []

    def wait_for(self, what: str, condition: Callable[[], T], limit_s: float) -> T:
        """The first true value of `condition`. Raises UserError where the run ends before, or it does not come."""
        until = time.monotonic() + limit_s
        while not (found := condition()):
            if self.ended() is not None:
                raise UserError(f"the run ended with code {self.ended()} before {what}", self.tail())
            if time.monotonic() > until:
                raise UserError(f"{what} did not come in {limit_s:g} s", self.tail())
            time.sleep(LOOK_S)
        return found

    def trains(self, after: int = 0) -> Record | None:
        """The newest attempt, where it is later than attempt `after` and has saved something of its own."""
        records = self.records()
        last = records[-1] if records else None
        if last is None or last.epoch <= after or last.first_step_s is None or last.end != "under way":
            return None
        return last if self.files.newest_step() > last.resumed else None

    def processes(self) -> dict[int, object]:
        """The training processes (psutil) of this run on this node by rank: children of guards, which are none."""
        import psutil

        from ryzen_mpi.beacon import VARIABLE

        found = {}
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                line, variables = process.cmdline(), process.environ()
            except psutil.Error:
                continue
            if VARIABLE in variables and "ryzen_mpi.supervisor.guard" not in line and str(self.path) in line:
                rank = variables.get("PMIX_RANK") or variables.get("OMPI_COMM_WORLD_RANK") or "0"
                found[int(rank)] = process
        return found

    def tail(self, lines: int = 8) -> str:
        """The last that was said, for a person."""
        try:
            said = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "no log was written"
        return "\n".join(line for line in said[-lines:] if line.strip())

    def _kill(self) -> None:
        import psutil

        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()


def _stop_with_parent() -> None:
    """In the supervisor-to-be: SIGINT once the check's process has gone, however it went."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
