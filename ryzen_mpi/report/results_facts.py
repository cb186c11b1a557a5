"""From a results folder to what a report can rely on: results whose hash fits, the others by name, and the verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.report.content import Tone
from ryzen_mpi.report.texts import clean
from ryzen_mpi.validation.result import Damaged, Result, unseal

VERDICT_FORMAT = 1
VERDICTS: dict[str, Tone] = {"GO": "good", "NO-GO": "bad", "INSUFFICIENT": "warn", "INVALID": "bad"}
ROW_TONES: dict[str, Tone] = {
    "met": "good",
    "excellent": "good",
    "not met": "bad",
    "no-go": "bad",
    "invalid": "bad",
    "missing": "warn",
    "too short": "warn",
    "not measurable": "unknown",
}

_THRESHOLD = re.compile(r"(>=|<=|>|<)\s*([-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*(.*)")


@dataclass(frozen=True)
class Row:
    """One figure against its threshold, as the gate judged it."""

    check: str
    figure: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    unit: str
    threshold: str
    verdict: str
    source: str
    reason: str

    @property
    def tone(self) -> Tone:
        return ROW_TONES.get(self.verdict, "unknown")

    @property
    def name(self) -> str:
        return f"{self.check}: {self.figure.replace('_', ' ')}"

    def bound(self) -> tuple[str, float] | None:
        """The threshold as comparison and number in the figure's unit; None where it is no such."""
        found = _THRESHOLD.fullmatch(self.threshold.strip())
        if found is None or found[3].strip() not in ("", self.unit):
            return None
        return found[1], float(found[2].replace(",", ""))


@dataclass(frozen=True)
class Verdict:
    """What a gate said of a phase, by one set of thresholds."""

    phase: str
    set: str
    verdict: str
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def tone(self) -> Tone:
        return VERDICTS[self.verdict]

    def row(self, *words: str) -> Row | None:
        """The first row with a value whose figure's name holds one of `words`; words that come first win."""
        for word in words:
            for row in self.rows:
                if word in row.figure.lower() and row.value is not None:
                    return row
        return None


@dataclass(frozen=True)
class ResultsFacts:
    """A results folder.

    Attributes:
        results: those whose hash fits, in the order they were made.
        damaged: files that hold none, with the reason.
        verdict: None where no gate has judged them.
        missing: what is not there, in words.
    """

    path: Path
    campaign: Mapping[str, Any]
    results: tuple[Result, ...]
    damaged: tuple[tuple[str, str], ...]
    verdict: Verdict | None
    missing: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def ended_s(self) -> float | None:
        """When the newest result was made."""
        return max((result.ended for result in self.results), default=None)

    def newest(self) -> dict[str, Result]:
        """The newest result of each check."""
        return {result.check: result for result in self.results}


def is_results(path: Path) -> bool:
    """Whether `path` is a results folder of `ryzen-mpi validate`."""
    return (Path(path) / "results").is_dir() or (Path(path) / "campaign.json").is_file()


def read_results(path: Path, verdict: Mapping[str, Any] | None = None, wanted_set: str | None = None) -> ResultsFacts:
    """The results folder `path`, judged by `verdict` (JSON of a gate), or by its verdict.json where none is given.

    Raises UserError where there is no such folder, and where a verdict is none or not by the set that is wanted.
    """
    path, missing = Path(path), list[str]()
    if not path.is_dir():
        raise UserError(f"no results folder at {path}", "give the folder that `ryzen-mpi validate` filled")
    if not is_results(path):
        raise UserError(
            f"{path} is no results folder: it holds neither results nor campaign.json",
            "give the folder that `ryzen-mpi validate` filled",
        )
    results, damaged, sources = _results(path)
    if not results:
        missing.append("no check has left a result")
    campaign = _campaign(path, missing)
    file = path / "verdict.json"
    if verdict is None and file.exists():
        verdict = _object(file)
        sources.append(str(file))
    judged = None if verdict is None else parse_verdict(verdict, clean(file))
    if judged is None:
        missing.append("no verdict: no gate has judged these results (ryzen-mpi gate)")
    elif wanted_set is not None and judged.set != wanted_set:
        raise UserError(
            f"the verdict in {path} is by the set {judged.set!r}, not by {wanted_set!r}",
            f"judge the results by it first: ryzen-mpi gate {judged.phase} --set {wanted_set}",
        )
    return ResultsFacts(
        Path(clean(path.resolve())), campaign, results, damaged, judged, tuple(missing), tuple(sources)
    )  # fmt: skip


def parse_verdict(content: Any, where: str) -> Verdict:
    """The verdict in `content`, JSON of a gate that was read from `where`. Pure. Raises UserError."""
    hint = "let `ryzen-mpi gate` write it anew"
    try:
        if content["format"] != VERDICT_FORMAT:
            raise UserError(f"{where} has format {content['format']}, this program reads {VERDICT_FORMAT}", hint)
        if content["verdict"] not in VERDICTS:
            raise UserError(f"{where} has the verdict {content['verdict']!r}, which no gate gives", hint)
        return Verdict(
            phase=clean(content["phase"]),
            set=clean(content["set"]),
            verdict=content["verdict"],
            reasons=tuple(clean(reason) for reason in content["reasons"]),
            rows=tuple(_row(row) for row in content["rows"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        what = f"{error} is missing" if isinstance(error, KeyError) else clean(error)
        raise UserError(f"{where} is no verdict, or a damaged one: {what}", hint) from None


def _row(row: Mapping[str, Any]) -> Row:
    texts = {name: clean(row.get(name) or "") for name in ("figure", "unit", "threshold", "source", "reason")}
    numbers = {name: None if row.get(name) is None else float(row[name]) for name in ("value", "low", "high")}
    n = row.get("n")
    return Row(
        check=clean(row["check"]), verdict=clean(row["verdict"]), n=None if n is None else int(n), **texts, **numbers
    )  # fmt: skip


def _results(path: Path) -> tuple[tuple[Result, ...], tuple[tuple[str, str], ...], list[str]]:
    results, damaged, sources = [], [], []
    for file in sorted((path / "results").glob("*.json")):
        try:
            results.append(unseal(json.loads(file.read_text(encoding="utf-8"))))
            sources.append(str(file))
        except Damaged as error:
            damaged.append((clean(file.name), clean(error)))
        except (OSError, ValueError, RecursionError) as error:
            damaged.append((clean(file.name), f"it cannot be read: {clean(error)}"))
    results.sort(key=lambda result: result.number)
    return tuple(results), tuple(damaged), sources


def _campaign(path: Path, missing: list[str]) -> Mapping[str, Any]:
    try:
        return _object(path / "campaign.json")
    except UserError as error:
        missing.append(clean(error.message))
        return {}


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises UserError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {path.name} in {path.parent}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {clean(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no object")
    return content
