"""How the gates stand, judged from the results folders beside the runs, exactly as `ryzen-mpi gate` does."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.report.texts import clean, moment_text, plural

PAUSE_S = 5.0
_TONES = {"GO": "good", "NO-GO": "bad", "INSUFFICIENT": "warn", "INVALID": "bad"}
MOST_REASONS = 6


class Gates:
    """Results folders in `roots` (each of them, and what lies directly in it); the newest of each phase counts."""

    def __init__(self, roots: Iterable[Path], which: str = "sound") -> None:
        self._roots, self._which = tuple(dict.fromkeys(roots)), which
        self._known: dict[Path, tuple[tuple, dict[str, Any]]] = {}
        self._looked, self._found = float("-inf"), list[dict[str, Any]]()

    def look(self) -> list[dict[str, Any]]:
        """A row a phase: verdict, tone, reasons. A folder is judged again when its results have changed."""
        if time.monotonic() - self._looked < PAUSE_S:
            return self._found
        newest: dict[str, dict[str, Any]] = {}
        for folder in self._folders():
            row = self._row(folder)
            if row is not None and row["ended"] >= newest.get(row["phase"], row)["ended"]:
                newest[row["phase"]] = row
        self._found = [newest[phase] for phase in sorted(newest)]
        self._looked = time.monotonic()
        return self._found

    def _folders(self) -> list[Path]:
        found = []
        for root in self._roots:
            with contextlib.suppress(OSError):
                inside = sorted(path for path in root.iterdir() if path.is_dir())
                found += [path for path in (root, *inside) if (path / "campaign.json").is_file()]
        return list(dict.fromkeys(found))

    def _row(self, folder: Path) -> dict[str, Any] | None:
        try:
            results = [entry.stat() for entry in os.scandir(folder / "results") if entry.name.endswith(".json")]
        except OSError:
            results = []
        ended = max((found.st_mtime for found in results), default=0.0)
        seen = len(results), ended, sum(found.st_size for found in results)
        if folder in self._known and self._known[folder][0] == seen:
            return self._known[folder][1]
        row = _judged(folder, self._which, ended)
        if row is not None:
            self._known[folder] = seen, row
        return row


def _judged(folder: Path, which: str, ended: float) -> dict[str, Any] | None:
    from ryzen_mpi.validation.authority import judge_folder
    from ryzen_mpi.validation.store import open_campaign

    try:
        phase = open_campaign(folder).phase
        verdict = judge_folder(phase, folder, which)
    except UserError as error:
        return {"phase": "?", "verdict": "INVALID", "tone": "bad", "ended": ended, "when": "", "folder": clean(folder),
                "reasons": [clean(error.message)], "met": ""}  # fmt: skip
    met = sum(row.verdict in ("met", "excellent") for row in verdict.rows)
    return {
        "phase": verdict.phase,
        "verdict": verdict.verdict,
        "tone": _TONES[verdict.verdict],
        "ended": ended,
        "when": moment_text(ended) if ended else "no result yet",
        "folder": clean(folder),
        "met": f"{met} of {plural(len(verdict.rows), 'threshold')} met",
        "reasons": [clean(reason) for reason in verdict.reasons[:MOST_REASONS]]
        + ([f"and {len(verdict.reasons) - MOST_REASONS} more"] if len(verdict.reasons) > MOST_REASONS else []),
    }
