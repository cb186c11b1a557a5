"""Following a run's metrics.h5 while it grows: what is new since the last look, through resumes and pauses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.hdf5_file import journal_path
from ryzen_mpi.metrics.reader import Metrics, read_metrics
from ryzen_mpi.rundir import RunDirectory

POLL_S = 0.5
PATIENCE_S = 30.0
"""How long a file may be missing or unreadable, once it was seen: a resume sets a damaged one aside."""


@dataclass(frozen=True)
class News:
    """What a look has found.

    Attributes:
        metrics: all that is in the file now.
        rows: those that are new.
        back: the step that the run went back to, where it did since the last look: rows after it are undone.
    """

    metrics: Metrics
    rows: slice
    back: int | None


class Follower:
    """Tells of the rows of a table as they come. Local.

    Args:
        path: the metrics.h5; it need not be there yet, its directory must.
        table: "training" or "samples".
    """

    def __init__(self, path: Path, table: str) -> None:
        self.path, self._table = Path(path), table
        self._seen = np.empty((0, 2))
        self._state: object = None
        self._readable_at = time.monotonic()

    def news(self) -> Iterator[News | None]:
        """News as they come, None where there are none; ends when the run is complete. Waits in between.

        Raises UserError where the file stays missing or unreadable after it was seen, or its directory is missing.
        """
        if not self.path.exists() and not (self.path.name == "metrics.h5" and self.path.parent.is_dir()):
            read_metrics(self.path)  # says what is wrong; a run that has just started has no file yet
        run = RunDirectory(self.path.parent)
        while True:
            complete = run.read_complete() is not None  # before the look: the marker comes after the last row
            yield self.look()
            if complete:
                return
            time.sleep(POLL_S)

    def look(self) -> News | None:
        """What is new now, or None."""
        state = self._signature()
        if state is not None and state == self._state:
            self._readable_at = time.monotonic()
            return None
        try:
            metrics = read_metrics(self.path)
        except UserError:
            there_yet, seen = state is not None, self._state is not None
            if not (there_yet or seen) or seen and time.monotonic() - self._readable_at < PATIENCE_S:
                return None
            raise
        self._state, self._readable_at = state, time.monotonic()
        return self._compared(metrics)

    def _compared(self, metrics: Metrics) -> News | None:
        # a step that was trained again has another time
        now = np.stack([metrics[f"{self._table}/{name}"] for name in ("step", "wall_time_s")], axis=1)
        shorter = min(len(now), len(self._seen))
        differ = np.flatnonzero((now[:shorter] != self._seen[:shorter]).any(axis=1))
        same = int(differ[0]) if len(differ) else shorter
        back = None
        if same < len(self._seen):
            back = int(now[same - 1][0]) if same else 0
        self._seen = now
        return News(metrics, slice(same, None), back) if back is not None or same < len(now) else None

    def _signature(self) -> object:
        """Changes with every flush; None where there is no file."""
        found = []
        for path in (self.path, journal_path(self.path)):
            try:
                stat = os.stat(path)
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except OSError:
                found.append(None)
        return tuple(found) if found[0] else None
