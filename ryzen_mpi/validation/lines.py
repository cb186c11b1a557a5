"""What a person reads while checks run: a line each, and below one that does not pass why, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ryzen_mpi.units import duration_text
from ryzen_mpi.validation.gate import Row
from ryzen_mpi.validation.registry import Check
from ryzen_mpi.validation.result import Measured, Result

OK, FAIL, SHORT, NONE, ERROR = "[ OK ]", "[FAIL]", "[ .. ]", "[ -- ]", "[ERR ]"
EVIDENCE_LINES = 12


def running(number: int, count: int, check: Check) -> str:
    """The line of a check that begins."""
    return f"[ >> ] ({number}/{count}) {check.name}: {check.about}"


def progress(text: str) -> str:
    return f"         {text}"


def outcome(number: int, count: int, result: Result, rows: Sequence[Row]) -> Iterator[str]:
    """The line of a check that is done, and what follows it."""
    mark = mark_of(result, rows)
    head = f"{mark} ({number}/{count}) {result.check}"
    took = duration_text(result.seconds)
    if result.status != "measured":
        first, *rest = (result.message or result.status).splitlines() or [""]
        yield f"{head}: {result.status}: {first}  {took}"
        yield from (progress(line) for line in rest)
    else:
        shown = _main(result, rows)
        yield f"{head}  {shown}  {took}" if shown else f"{head}  {took}"
        yield from _below(result, rows)
    if mark in (FAIL, ERROR):
        yield progress(f"again: {result.rerun}")


def mark_of(result: Result, rows: Sequence[Row]) -> str:
    """One of OK, FAIL, SHORT, NONE, ERROR. Pure."""
    if result.status == "not measurable":
        return NONE
    if result.status != "measured":
        return ERROR
    means = {row.means for row in rows}
    if result.findings.impossible or result.findings.problems or means & {"NO-GO", "INVALID"}:
        return FAIL
    if "INSUFFICIENT" in means:
        return SHORT
    figures = result.findings.figures
    return NONE if figures and all(figure.value is None for figure in figures) else OK


def _main(result: Result, rows: Sequence[Row]) -> str:
    """The figure of the line: the first that does not pass, else the first that is judged, else the first."""
    judged = [row for row in rows if row.value is not None]
    bad = next((row for row in judged if row.means != "GO"), None)
    row = bad or (judged[0] if judged else None)
    if row is not None:
        figure = result.figure(row.figure)
        assert figure is not None
        return f"{figure_text(figure)}, asked {row.threshold}"
    figure = next((figure for figure in result.findings.figures if figure.value is not None), None)
    return figure_text(figure) if figure else ""


def figure_text(figure: Measured) -> str:
    """'throughput 253 samples/s (251 to 255, n=12)'."""
    if figure.value is None:
        return f"{figure.name} not measurable here: {figure.why}"
    unit = "" if figure.unit == "1" else f" {figure.unit}"
    facts = [] if figure.low is None or figure.high is None else [f"{figure.low:.4g} to {figure.high:.4g}"]
    facts += [f"n={figure.n}"] if figure.n > 1 else []
    return f"{figure.name} {figure.value:.6g}{unit}" + (f" ({', '.join(facts)})" if facts else "")


def _below(result: Result, rows: Sequence[Row]) -> Iterator[str]:
    """Everything that does not pass, with its evidence; what is not measurable here, with the reason."""
    found = result.findings
    yield from (progress(f"cannot be: {text}") for text in found.impossible)
    yield from (progress(f"problem: {text}") for text in found.problems)
    wrong = [row for row in rows if row.means != "GO"]
    for row in wrong:
        figure = result.figure(row.figure)
        text = figure_text(figure) if figure else f"{row.figure}: not measured"
        yield progress(f"{row.verdict}: {text}, asked {row.threshold}" + (f"; {row.reason}" if row.reason else ""))
    for figure in found.figures:
        if figure.value is None and figure.name not in {row.figure for row in wrong}:
            yield progress(figure_text(figure))
    if found.problems or found.impossible or any(row.means in ("NO-GO", "INVALID") for row in wrong):
        yield from (progress(line) for line in found.evidence[:EVIDENCE_LINES])
        if len(found.evidence) > EVIDENCE_LINES:
            yield progress(f"... {len(found.evidence) - EVIDENCE_LINES} more lines of evidence in the result")
