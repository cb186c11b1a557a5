"""A run is what its run directory says: the names in it, and the lock that keeps two runs apart."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError


@dataclass(frozen=True)
class RunDirectory:
    """Where everything of a run lies. The directory is on a file system that all nodes see."""

    path: Path

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
    def events(self) -> Path:
        return self.path / "events"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.h5"

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
        """Keeps the directory for this process until it ends, however it ends. Rank 0. Raises UserError."""
        handle = -1
        try:
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise UserError(
                f"run directory {self.path} is in use by {holder}", "wait for it, or choose another with --run-dir DIR"
            ) from None
        except OSError as error:  # of another user, or on a file system without locks
            if handle >= 0:
                os.close(handle)
            raise UserError(
                f"run directory {self.path} can't be locked: {error.strerror}", "choose another with --run-dir DIR"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        return handle

    def read_complete(self) -> dict[str, Any] | None:
        """The summary of a run that reached its end, or None. A damaged one counts as none."""
        try:
            content = json.loads(self.complete.read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None


def new_run_path(profile: str) -> Path:
    """`runs/<time>-<profile>`, with a number where a run of this second exists. Rank 0 decides, others are told."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(profile).stem)
    base = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def write_atomic(path: Path, text: str) -> None:
    """`text` in `path`, whole or not at all, on disk when this returns. Raises OSError."""
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
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
