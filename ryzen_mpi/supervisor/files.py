"""Where the supervisor of a run keeps what: names, and the lock that keeps two supervisors apart."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import Held, RunDirectory, hold


@dataclass(frozen=True)
class Files:
    """The supervisor's part of a run directory."""

    run: RunDirectory

    @property
    def folder(self) -> Path:
        return self.run.path / "supervisor"

    @property
    def state(self) -> Path:
        """What a supervisor that is started again has to know."""
        return self.folder / "state.json"

    @property
    def summary(self) -> Path:
        """Attempts, faults, ETTR so far; replaced after every attempt."""
        return self.folder / "summary.json"

    @property
    def requests(self) -> Path:
        """What people ask of a running supervisor."""
        return self.folder / "requests"

    @property
    def failed(self) -> Path:
        """The marker of a run that was given up: what was wrong and what a person can do."""
        return self.run.path / "FAILED.json"

    def plan(self, epoch: int) -> Path:
        """What the guards of an attempt have to know; for its owner's eyes."""
        return self.folder / f"attempt-{epoch:06d}.json"

    def newest_step(self) -> int:
        """Step of the newest checkpoint on disk, or -1."""
        found = (path.name[5:] for path in self.run.checkpoints.glob("step-*"))
        return max((int(step) for step in found if step.isdigit()), default=-1)

    def lock(self) -> int:
        """Makes the folder and keeps it for this process until it ends, however it ends. Raises UserError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.touch()
        except OSError as error:
            raise UserError(
                f"{self.folder} can't be written: {error.strerror}", "choose another run directory with --run-dir DIR"
            ) from None
        try:
            return hold(self._lock)
        except Held as held:
            raise UserError(
                f"{self.run.path} is supervised already, by {held.holder}",
                "ask that one (ryzen-mpi resize, ryzen-mpi rollback), or choose another --run-dir",
            ) from None
        except OSError as error:
            raise UserError(f"{self._lock} can't be locked: {error.strerror}", "choose another --run-dir") from None

    def is_supervised(self) -> bool:
        """Whether a supervisor is at work on the run."""
        try:
            handle = os.open(self._lock, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
        finally:
            os.close(handle)

    @property
    def _lock(self) -> Path:
        return self.folder / ".lock"
