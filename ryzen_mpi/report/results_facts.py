"""From a results folder to what a report can rely on: results whose hash fits, the others by name, and the verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.report.content import Tone
from ryzen_mpi.report.texts import clean
from ryzen_mpi.validation.result import Result
from ryzen_mpi.validation.store import open_campaign
from ryzen_mpi.validation.thresholds import load_rules

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
        return f"{self.check}: {self.figure.replace('_', ' ')}" if self.figure else self.check

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

    def row(self, figure: str) -> Row | None:
        """The first row of that figure, one with a value before one without."""
        named = [row for row in self.rows if row.figure == figure]
        return next((row for row in named if row.value is not None), named[0] if named else None)


@dataclass(frozen=True)
class ResultsFacts:
    """A results folder.

    Attributes:
        results: those whose hash fits, in the order they were made.
        damaged: files that hold none, each with the reason.
        verdict: None where no gate could judge them; `missing` says why.
        missing: what is not there, in words.
        targets: the thresholds by the names of their figures, as texts; empty where nothing was judged.
    """

    path: Path
    phase: str
    results: tuple[Result, ...]
    damaged: tuple[str, ...]
    verdict: Verdict | None
    missing: tuple[str, ...]
    sources: tuple[str, ...]
    targets: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended_s(self) -> float | None:
        """When the newest result was made."""
        return max((result.ended for result in self.results), default=None)

    def newest(self) -> dict[str, Result]:
        """The newest result of each check."""
        return {result.check: result for result in self.results}


Judge = Callable[[str, Path], Mapping[str, Any]]
"""From a phase's name and its results folder to the JSON of a gate's verdict. Raises UserError where it cannot."""


def by_the_gate(which: str = "sound") -> Judge:
    """Judges by that set of thresholds: `sound` or `published`. A verdict is made anew from the results, never read."""

    def judge(phase: str, folder: Path) -> Mapping[str, Any]:
        from ryzen_mpi.validation.authority import judge_folder

        return judge_folder(phase, folder, which).as_json()

    return judge


def is_results(path: Path) -> bool:
    """Whether `path` is a results folder of `ryzen-mpi validate`."""
    return (Path(path) / "campaign.json").is_file()


def read_results(path: Path, judge: Judge | None = None) -> ResultsFacts:
    """The results folder `path` with the verdict of `judge`; of the gate by its sound thresholds when absent. Local.

    Raises UserError where there is no such folder. Results that are damaged, and why there is no verdict, are told.
    """
    path, missing = Path(path), list[str]()
    if not path.is_dir():
        raise UserError(f"no results folder at {path}", "give the folder that `ryzen-mpi validate` filled")
    campaign = open_campaign(path)
    results, damaged = campaign.read()
    if not results:
        missing.append("no check has left a result")
    verdict = None
    try:
        verdict = parse_verdict((judge or by_the_gate())(campaign.phase, path), f"the verdict on {clean(path)}")
    except UserError as error:
        missing.append(f"no verdict: {clean(error.message)}")
    return ResultsFacts(
        path=Path(clean(path.resolve())),
        phase=campaign.phase,
        results=tuple(results),
        damaged=tuple(clean(text) for text in damaged),
        verdict=verdict,
        missing=tuple(missing),
        sources=(str(clean(path)),),
        targets={} if verdict is None else _targets(verdict),
    )


def _targets(verdict: Verdict) -> dict[str, str]:
    """What the phase asks for, whether it was measured or not."""
    try:
        rules = load_rules(verdict.phase, verdict.set)
    except UserError:
        return {}
    return {name: rule.text for figures in rules.thresholds.values() for name, rule in figures.items()}


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
