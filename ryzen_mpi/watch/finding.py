"""Which runs are watched: those that were named, and those that lie in a folder, also when they come later."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ryzen_mpi.errors import UserError
from ryzen_mpi.report.read_run import is_run
from ryzen_mpi.watch.view import Watched

PAUSE_S = 1.0
MOST_RUNS = 200
"""Of a folder: the newest."""


class Runs:
    """The watched runs by their identities, which are made here and are no paths.

    Args:
        paths: run directories.
        folder: holds run directories; looked through again and again.
        expect: samples a second that all of them ought to reach, or None.

    Raises UserError where there is no such directory.
    """

    def __init__(self, paths: Sequence[Path], folder: Path | None = None, expect: float | None = None) -> None:
        for path in paths:
            if not path.is_dir():
                raise UserError(f"no run directory at {path}", "give the directory that a run was started with")
            if not is_run(path):
                raise UserError(
                    f"{path} is no run directory: it holds none of config.yaml, metrics.h5, events and COMPLETE.json",
                    "--runs DIR shows all runs in a folder, also those that start later",
                )
        if folder is not None and not folder.is_dir():
            raise UserError(f"no folder {folder}", "give run directories, or --runs DIR, the folder that holds them")
        self.folder, self._expect, self._lock = folder, expect, threading.Lock()
        self._known: dict[str, Watched] = {}
        self._looked = float("-inf")
        for path in paths:
            self._add(path)

    def all(self) -> list[Watched]:
        """In the order given; those of a folder by their names, which begin with their times, the newest first."""
        with self._lock:
            if self.folder is not None and time.monotonic() - self._looked >= PAUSE_S:
                self._look_through(self.folder)
                self._looked = time.monotonic()
            return list(self._known.values())

    def get(self, identity: str) -> Watched | None:
        """The run of this identity."""
        return self._known.get(identity)

    def _look_through(self, folder: Path) -> None:
        with contextlib.suppress(OSError):
            found = [path for path in folder.iterdir() if path.is_dir() and is_run(path)]
            for path in sorted(found, key=lambda path: path.name, reverse=True)[:MOST_RUNS]:
                self._add(path)
        named = sorted(self._known.values(), key=lambda run: run.path.name, reverse=True)
        self._known = {run.identity: run for run in named}

    def _add(self, path: Path) -> None:
        path = path.resolve()  # a link may lead elsewhere later; and two names of a run are one run
        identity = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:12]
        if identity not in self._known:
            self._known[identity] = Watched(path, identity, self._expect)
