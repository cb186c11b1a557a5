"""A run is what its run directory says: the names in it, the lock that keeps two runs apart, and the fence.

Under a supervisor every attempt has a number, its epoch, and a folder of its own, its staging folder. Whatever an
attempt changes of what others trust (a checkpoint, the completion marker) is renamed out of that folder or into it.
When the supervisor has ended the attempt it renames the folder away: what is left of the attempt, on a host that was
cut off say, can change nothing any more, because its rename finds no folder. Nobody has to be asked, and no clock has
to be right.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError

PREDECESSOR_S = 10.0
"""How long an attempt waits for the lock of the one before, whose rank 0 may be on its way out on another node."""


class Fenced(UserError):
    """This process belongs to an attempt that its supervisor has ended; `staging` was its folder."""

    def __init__(self, staging: Path) -> None:
        epoch = int(staging.name.rpartition("-")[2])
        super().__init__(f"this attempt (epoch {epoch}) has been ended by its supervisor: nothing was written")


@dataclass(frozen=True)
class RunDirectory:
    """Where everything of a run lies. The directory is on a file system that all nodes see.

    Attributes:
        path: the directory.
        epoch: number of the supervisor's attempt that uses it, or None where nobody supervises.
    """

    path: Path
    epoch: int | None = None

    @property
    def config(self) -> Path:
        """The resolved settings, YAML."""
        return self.path / "config.yaml"

    @property
    def data(self) -> Path:
        """Tokenised corpus and tokenizer."""
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def staging(self) -> Path:
        """Where this attempt prepares what it commits: a folder of its own, or `checkpoints` itself without epoch."""
        return self.checkpoints if self.epoch is None else self.checkpoints / f".epoch-{self.epoch:06d}"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.h5"

    @property
    def exposition(self) -> Path:
        """The newest figures, in the format of Prometheus."""
        return self.path / "metrics.prom"

    @property
    def logs(self) -> Path:
        """Logs of the ranks, for a shipper."""
        return self.path / "logs"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def complete(self) -> Path:
        """The summary, written last: there if and only if the run reached its end."""
        return self.path / "COMPLETE.json"

    def create(self) -> None:
        """Makes the directory. Rank 0. Raises UserError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"run directory {self.path} can't be written: {error.strerror}", "choose another with --run-dir DIR"
            ) from None

    def lock(self) -> int:
        """Keeps the directory for this process until it ends, however it ends. Rank 0. Raises UserError.

        Under a supervisor it waits PREDECESSOR_S for the one who holds it: two attempts meet, two runs do not.
        """
        try:
            return hold(self.path / ".lock", 0.0 if self.epoch is None else PREDECESSOR_S)
        except Held as held:
            raise UserError(
                f"run directory {self.path} is in use by {held.holder}",
                "wait for it, or choose another with --run-dir DIR",
            ) from None
        except OSError as error:  # of another user, or on a file system without locks
            raise UserError(
                f"run directory {self.path} can't be locked: {error.strerror}", "choose another with --run-dir DIR"
            ) from None

    def read_complete(self) -> dict[str, Any] | None:
        """The summary of a run that reached its end, or None. A damaged one counts as none."""
        try:
            content = json.loads(self.complete.read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def write(self, path: Path, text: str) -> None:
        """`text` in `path`, a file of this directory, whole or not at all. Rank 0. Raises UserError, Fenced."""
        try:
            write_atomic(path, text, None if self.epoch is None else self.staging)
        except OSError as error:
            self.check_fence()
            raise UserError(
                f"{path} can't be written: {error.strerror or error}", "check the space on its disk, and its rights"
            ) from error

    def write_complete(self, summary: dict[str, Any]) -> None:
        """Says that the run is complete, by this attempt. Rank 0. Raises UserError, Fenced."""
        text = json.dumps(summary | {"epoch": self.epoch}, indent=1, allow_nan=False)
        self.write(self.complete, text + "\n")

    def renew_complete(self) -> dict[str, Any] | None:
        """As read_complete; the marker is this attempt's from then on, so that its supervisor believes it. Rank 0."""
        summary = self.read_complete()
        if summary is not None and self.epoch is not None:
            self.write_complete(summary)
        return summary

    def remove_complete(self) -> None:
        """Takes the marker away: the run goes on. Rank 0. Raises UserError, Fenced."""
        try:
            if self.epoch is None:
                self.complete.unlink(missing_ok=True)
                return
            aside = self.staging / f".{self.complete.name}.removed-{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):  # no marker, or no staging folder: check_fence knows which
                self.complete.rename(aside)
                aside.unlink()
        except OSError as error:
            raise UserError(
                f"{self.complete} can't be removed: {error.strerror}", "check the rights of the run directory"
            ) from error
        self.check_fence()

    # -- the fence ----------------------------------------------------------------------------------------------------

    def check_fence(self) -> None:
        """Raises Fenced where this attempt has been ended. Local."""
        if self.epoch is not None and not self.staging.is_dir():
            raise Fenced(self.staging)

    def open_staging(self) -> None:
        """Makes the staging folder of `epoch`, which lets it through. For the supervisor alone. Raises OSError."""
        self.staging.mkdir(parents=True, exist_ok=True)

    def close_staging(self) -> None:
        """Ends `epoch`: from here on it can commit nothing. For the supervisor alone; harmless when repeated.

        What a killed rank was moving about is put where it belongs, the rest is deleted. Raises OSError.
        """
        ended = self.checkpoints / f".ended-{self.staging.name.rpartition('-')[2]}"
        with contextlib.suppress(FileNotFoundError):
            self.staging.rename(ended)
        for path in ended.glob(".step-*.replaced-*"):  # the only copy of its step, perhaps
            with contextlib.suppress(OSError):
                path.rename(self.checkpoints / path.name)
        for path in ended.glob("step-*"):
            aside = self.checkpoints / SET_ASIDE
            aside.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):
                path.rename(aside / path.name)
        shutil.rmtree(ended, ignore_errors=True)


SET_ASIDE = "set-aside"
"""In `checkpoints`: those of a future that a rollback has left, and damaged ones; `step-00000300.20260102-030405`."""


class Held(Exception):
    """A lock that another process has; `holder` says which."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


def hold(path: Path, patience_s: float = 0.0) -> int:
    """The lock `path`, this process's until it ends, however it ends. Raises Held after `patience_s`, and OSError."""
    handle, until = os.open(path, os.O_RDWR | os.O_CREAT, 0o644), time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise Held(os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process") from None
                time.sleep(0.1)
    except BaseException:
        os.close(handle)
        raise
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    return handle


def new_run_path(profile: str) -> Path:
    """`runs/<time>-<profile>`, with a number where a run of this second exists. Rank 0 decides, others are told."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(profile).stem)
    base = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def write_atomic(path: Path, text: str, staging: Path | None = None) -> None:
    """`text` in `path`, whole or not at all, on disk when this returns. Raises OSError.

    `staging`: the folder it is prepared in, on the same file system; that of `path` when absent.
    """
    aside = (staging or path.parent) / f".{path.name}.partial-{os.getpid()}"
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    synchronise(path.parent)


def synchronise(path: Path) -> None:
    """Has a file's content, or a folder's names, on the disk when it returns. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
