"""May the next phase start? A pure function of recorded results and thresholds: GO, NO-GO, INSUFFICIENT or INVALID.

INVALID: something in the results cannot be true, so nothing follows from any of it. NO-GO: a threshold is missed, or
a check found what must not be. INSUFFICIENT: something was not run, or too short. GO: none of these, without any doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ryzen_mpi.validation import doubts
from ryzen_mpi.validation.result import Measured, Result, plain
from ryzen_mpi.validation.thresholds import Rules, Threshold, is_finite

FORMAT = 1
VERDICTS = ("GO", "NO-GO", "INSUFFICIENT", "INVALID")
EXIT_CODES = {"GO": 0, "NO-GO": 1, "INSUFFICIENT": 3, "INVALID": 4}
"""2 is wrong use, as everywhere."""
_MEANS = {"met": "GO", "excellent": "GO", "not met": "NO-GO", "no-go": "NO-GO", "invalid": "INVALID"}


@dataclass(frozen=True)
class Row:
    """One threshold, or one check that must be there, and what became of it.

    Attributes:
        verdict: "met", "excellent", "not met", "no-go", "not measurable", "missing", "too short" or "invalid".
        means: what follows for the gate, one of VERDICTS.
    """

    check: str
    figure: str
    threshold: str
    source: str
    verdict: str
    means: str
    reason: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the gate says, and why."""

    phase: str
    set: str
    verdict: str
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    format: int = FORMAT

    def as_json(self) -> dict[str, Any]:
        return plain(asdict(self))


def judge(results: Sequence[Result], rules: Rules, campaign: str, damaged: Sequence[str] = ()) -> Verdict:
    """The verdict on `results`. Pure: the same inputs in any order give the same verdict.

    Args:
        results: all that the results folder holds, of every check and every time it was run.
        campaign: the identity of that folder.
        damaged: what is wrong with results that could not be read.
    """
    ordered = sorted(results, key=lambda result: result.number)
    invalid = [*damaged, *doubts.of_all(ordered, rules.phase, campaign)]
    rows, reasons = [], [("INVALID", text) for text in invalid]
    for check, thresholds in rules.thresholds.items():
        runs = [result for result in ordered if result.check == check]
        rows += _rows_of(check, runs, thresholds, rules)
        if runs:
            newest = runs[-1]
            reasons += [("INVALID", f"{check}: {text}") for text in newest.findings.impossible]
            reasons += [("NO-GO", f"{check}: {text}") for text in newest.findings.problems]
    reasons += [(row.means, _sentence(row)) for row in rows if row.means != "GO"]
    if not rows:
        reasons.append(("INSUFFICIENT", "the phase has no thresholds: nothing can be judged"))
    verdict = next((name for name in ("INVALID", "NO-GO", "INSUFFICIENT") if any(r[0] == name for r in reasons)), "GO")
    order = sorted(reasons, key=lambda reason: ("INVALID", "NO-GO", "INSUFFICIENT").index(reason[0]))
    return Verdict(rules.phase, rules.set, verdict, tuple(f"{name}: {text}" for name, text in order), tuple(rows))


def _rows_of(check: str, runs: Sequence[Result], thresholds: dict[str, Threshold], rules: Rules) -> list[Row]:
    if not runs:
        return [Row(check, "", "run", "", "missing", "INSUFFICIENT", "it was not run")]
    newest = runs[-1]  # not the best of them
    if newest.status == "not measurable":
        needed = [name for name, threshold in thresholds.items() if not threshold.where_measurable]
        means = "INSUFFICIENT" if needed or not thresholds else "GO"
        return [Row(check, "", "run", "", "not measurable", means, newest.message)]
    if newest.status != "measured":
        return [Row(check, "", "run", "", "missing", "INSUFFICIENT", f"{newest.status}: {newest.message}")]
    size = doubts.wrong_size(newest, rules.ranks, rules.nodes)
    first = [Row(check, "", "the phase's ranks and nodes", "", "too short", "INSUFFICIENT", size)] if size else []
    return first + [judge_figure(check, name, newest.figure(name), rule) for name, rule in thresholds.items()]


def judge_figure(check: str, name: str, figure: Measured | None, threshold: Threshold) -> Row:
    """The row of one figure. Pure."""
    start = (check, name, threshold.text, threshold.source)
    if figure is None:
        return Row(*start, "missing", "INSUFFICIENT", "the check did not measure it")
    shown = {key: getattr(figure, key) for key in ("value", "low", "high") if is_finite(getattr(figure, key))}
    if figure.value is None:
        means = "GO" if threshold.where_measurable else "INSUFFICIENT"
        return Row(*start, "not measurable", means, figure.why, unit=figure.unit)
    if doubt := doubts.of_figure(figure, threshold):
        return Row(*start, "invalid", "INVALID", f"{figure.value!r}: {doubt}", unit=figure.unit, **shown)
    facts = shown | {"n": figure.n, "unit": figure.unit}
    if figure.n < threshold.least_n:
        reason = f"rests on {figure.n} observation(s), and {threshold.least_n} are needed"
        return Row(*start, "too short", "INSUFFICIENT", reason, **facts)
    verdict, reason = threshold.compare(figure)
    return Row(*start, verdict, _MEANS.get(verdict, "INSUFFICIENT"), reason, **facts)


def _sentence(row: Row) -> str:
    what = f"{row.check} {row.figure}".strip()
    if row.value is None:
        return f"{what}: {row.reason}"
    value = f"{row.value:.6g}" + ("" if row.unit == "1" else f" {row.unit}")
    return f"{what}: {value}, asked {row.threshold}" + (f"; {row.reason}" if row.reason else "")
