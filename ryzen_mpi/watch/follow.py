"""metrics.h5 followed while a run writes it: every look reads the rows since the one before, and locks nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from ryzen_mpi.metrics.hdf5_file import SettledFile, journal_path
from ryzen_mpi.metrics.hdf5_table import COMMITTED, FORMAT, OLD_FORMAT, TABLES
from ryzen_mpi.metrics.signals import SIGNALS, of_kind
from ryzen_mpi.watch.table import KEPT_ROWS

PLAIN = (
    *("step", "wall_time_s", "loss", "gradient_norm", "samples"),
    *("step_s", "communication_s", "skipped", "ranks"),
)
RANKED = ("rank_step_s", "rank_communication_s", "rank_rss_bytes", "rank_cpu_share")
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError)
_TRIES = 3


@dataclass(frozen=True)
class News:
    """What a look found.

    Attributes:
        kept: rows known before that still hold; fewer than were known where the run went back.
        plain, ranked: columns of the rows after them; `ranked` may have the newest alone.
        evaluations: step, loss and accuracy of all held-out evaluations.
        sample: the newest sample's values by the signals' names, its step and time included; empty without one.
    """

    kept: int
    plain: Mapping[str, np.ndarray]
    ranked: Mapping[str, np.ndarray]
    evaluations: tuple[tuple[int, float, float], ...] = ()
    sample: Mapping[str, float | np.ndarray] = field(default_factory=dict)


class Followed:
    """One metrics.h5. `rows` are known so far; `problem` says why it cannot be read, where it cannot."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows, self.problem = 0, ""
        self._last_wall_s = 0.0
        self._seen: tuple | None = None

    def look(self) -> News | None:
        """What is new, or None where nothing is, or the file cannot be read. Local. Never raises for a bad file.

        A file that is being written while it is read is read again, or at the next look.
        """
        for _ in range(_TRIES):
            before = _fingerprint(self.path)
            if before == self._seen or before is None:
                self.problem = "" if before else "there is no metrics.h5"
                return self._forget() if before is None else None
            try:
                news = self._read()
            except _DAMAGE as error:
                if _fingerprint(self.path) == before:
                    self.problem, self._seen = f"metrics.h5 cannot be read ({error})", before
                    return self._forget()
                continue
            if _fingerprint(self.path) == before:
                self._seen, self.problem = before, ""
                self.rows = news.kept + len(news.plain["step"])
                if len(news.plain["step"]):
                    self._last_wall_s = float(news.plain["wall_time_s"][-1])
                return news
        return None

    def _forget(self) -> News | None:
        """The rows are gone with the file."""
        if not self.rows:
            return None
        self.rows = 0
        return News(0, {name: np.empty(0) for name in PLAIN}, {name: np.empty((0, 0)) for name in RANKED})

    def _read(self) -> News:
        with h5py.File(SettledFile(self.path), "r") as file:
            version = int(file.attrs["format"])
            if version not in (FORMAT, OLD_FORMAT):
                raise ValueError(f"it has format {version}, this version of ryzen_mpi has {FORMAT}")
            counts = dict(zip(TABLES, file[COMMITTED][()].tolist(), strict=False))
            rows, kept = counts["training"], self.rows
            if kept and (rows < kept or file["training/wall_time_s"][kept - 1] != self._last_wall_s):
                kept = 0  # the run went back, and what followed is another time
            plain = {name: _column(file, name, kept, rows) for name in PLAIN}
            ranked = {name: _column(file, name, max(kept, rows - KEPT_ROWS), rows) for name in RANKED}
            if np.any(np.diff(plain["step"]) <= 0):
                raise ValueError("its steps do not rise")
            evaluations = tuple(
                zip(
                    *(
                        file[path][: counts["evaluation"]].tolist()
                        for path in ("evaluation/step", "evaluation/held_out_loss", "evaluation/held_out_accuracy")
                    ),
                    strict=True,
                )
            )
            return News(kept, plain, ranked, evaluations, _newest_sample(file, counts.get("samples", 0)))


def _column(file: h5py.File, name: str, first: int, last: int) -> np.ndarray:
    signal = SIGNALS[name]
    path = f"{signal.group}/{name}"
    if path not in file:  # of an older format
        return np.full((last - first, 0) if name.startswith("rank_") else last - first, np.nan)
    values = file[path][first:last]
    if len(values) != last - first:
        raise ValueError(f"{path} has {len(values)} rows of {last - first}")
    return values.astype(np.float64)


def _newest_sample(file: h5py.File, rows: int) -> dict[str, float | np.ndarray]:
    if not rows:
        return {}
    found: dict[str, float | np.ndarray] = {
        name: float(file[f"samples/{name}"][rows - 1]) for name in ("step", "wall_time_s")
    }
    for signal in of_kind("sample", "rank_sample"):
        path = f"{signal.group}/{signal.name}"
        if path in file and len(file[path]) >= rows:
            value = file[path][rows - 1]
            found[signal.name] = float(value) if signal.kind == "sample" else np.asarray(value, np.float64)
    return found


def _fingerprint(path: Path) -> tuple | None:
    """Changes whenever the file or its journal does; None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    try:
        journal = os.stat(journal_path(path))
        aside = journal.st_ino, journal.st_size, journal.st_mtime_ns
    except OSError:
        aside = ()
    return found.st_ino, found.st_size, found.st_mtime_ns, *aside
