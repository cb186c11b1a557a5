"""The report of a phase: its verdict, every figure against its threshold, and what each check found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ryzen_mpi.report.content import Advice, Badge, Cell, Headline, Picture, Report, Section, Shown, Table, by_urgency
from ryzen_mpi.report.pictures.ranks import heat_map
from ryzen_mpi.report.pictures.verdicts import Margin, margins
from ryzen_mpi.report.results_facts import ResultsFacts, Row, Verdict
from ryzen_mpi.report.run_report import missing_section
from ryzen_mpi.report.texts import clean, listed, moment_text, plural
from ryzen_mpi.units import duration_text
from ryzen_mpi.validation.result import Measured, Result

STATUS_TONES = {"measured": "good", "not measurable": "unknown"}
THREE = ("throughput", "efficiency", "communication_share")
"""The figures an operator asks for first, by their names in the thresholds."""
MOST_HEAT_MAPS, MOST_MARGINS = 6, 32


def phase_report(facts: ResultsFacts, now: float) -> Report:
    """The report of the results that `facts` tell of. Pure."""
    verdict = facts.verdict
    heads = Section("Why", tuple(_together(verdict.reasons)) if verdict is not None else ())
    sections = (
        heads,
        _gate_section(verdict),
        _check_section(facts),
        Section("Between the ranks", pictures=tuple(_heat_maps(facts))),
        Section("Advice", advice=by_urgency(phase_advice(facts))),
        Section("Results refused", facts.damaged),
        missing_section(facts.missing),
    )
    ended = facts.ended_s
    when = moment_text(ended) if ended is not None else "no result yet"
    judged = f", judged by the {verdict.set} set" if verdict is not None else ""
    return Report(
        kind="phase",
        title=f"Phase {facts.phase}",
        subtitle=f"{plural(len(facts.results), 'result')}, newest {when}{judged}",
        headline=phase_headline(facts),
        made=now,
        key=three_of(facts),
        sections=tuple(section for section in sections if not section.is_empty),
        sources=facts.sources,
    )


def _together(reasons: Sequence[str]) -> Iterator[str]:
    """The reasons in their order; those that say the same of several checks in one: "memory, numa: it was not run"."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for reason in reasons:
        parts = reason.split(": ", 2)
        key, what = ((parts[0], parts[2]), parts[1]) if len(parts) == 3 else ((reason,), "")
        alike.setdefault(key, []).append(what)
    for key, names in alike.items():
        yield f"{key[0]}: {listed(names, len(names))}: {key[1]}" if len(key) == 2 else key[0]


def phase_headline(facts: ResultsFacts) -> Headline:
    """The gate's word and how its figures fared; "not judged" where no gate has."""
    verdict = facts.verdict
    if verdict is None:
        return Headline("Not judged", "unknown", "no gate has judged these results")
    counts: dict[str, int] = {}
    for row in verdict.rows:
        counts[row.verdict] = counts.get(row.verdict, 0) + 1
    fared = ", ".join(f"{count} {word}" for word, count in counts.items())
    text = f"{plural(len(verdict.rows), 'threshold')}: {fared}" if fared else first_reason(verdict)
    return Headline(verdict.verdict, verdict.tone, text)


def first_reason(verdict: Verdict) -> str:
    """The gravest of the gate's reasons, without the verdict before it; empty where it gave none."""
    return verdict.reasons[0].removeprefix(f"{verdict.verdict}: ") if verdict.reasons else ""


def three_of(facts: ResultsFacts) -> tuple[Shown, ...]:
    """Throughput, efficiency and communication against their targets; as measured, where they are not judged."""
    return tuple(_one_of_three(facts, name) for name in THREE)


def _one_of_three(facts: ResultsFacts, name: str) -> Shown:
    row = facts.verdict.row(name) if facts.verdict is not None else None
    if row is not None:
        return shown_row(row, row.figure.replace("_", " "))
    measured = (result.figure(name) for result in facts.newest().values())
    known = next((figure for figure in measured if figure is not None), None)
    if known is None:
        target, note = facts.targets.get(name, ""), "no check has measured it"
        return Shown(name.replace("_", " "), None, target=target, note=note)
    return shown_measured(known)


def shown_row(row: Row, name: str) -> Shown:
    """A row of the gate as a figure."""
    known = row.value is not None
    return Shown(
        name, row.value, row.unit, row.low, row.high, row.n if known else None,
        target=row.threshold, badge=Badge(row.verdict, row.tone), note=row.reason,
    )  # fmt: skip


def _gate_section(verdict: Verdict | None) -> Section:
    if verdict is None or not verdict.rows:
        return Section("Gate")
    rows = tuple(
        (
            row.check,
            row.figure.replace("_", " "),
            shown_row(row, row.name),
            row.threshold,
            Badge(row.verdict, row.tone),
            row.reason,
        )
        for row in verdict.rows
    )
    far = [margin for row in verdict.rows if (margin := _margin(row)) is not None]
    worst = sorted(far, key=lambda margin: margin.ratio)[:MOST_MARGINS]
    far = [margin for margin in far if margin in worst]
    columns = ("check", "figure", "measured", "threshold", "verdict", "reason")
    return Section("Gate", pictures=(margins(far),) if far else (), tables=(Table(columns, rows),))


def _margin(row: Row) -> Margin | None:
    """The row's figure over its threshold; None where that is no ratio."""
    bound = row.bound()
    if bound is None or row.value is None or not math.isfinite(row.value) or bound[1] <= 0 or row.value < 0:
        return None
    upwards = bound[0].startswith(">")
    low, high = (row.value if edge is None or not math.isfinite(edge) else edge for edge in (row.low, row.high))

    def ratio(value: float) -> float:
        value = max(value, 1e-12)
        return value / bound[1] if upwards else bound[1] / value

    edges = sorted((ratio(low), ratio(high)))
    return Margin(row.name, row.figure.replace("_", " "), ratio(row.value), *edges, tone=row.tone, verdict=row.verdict)


def _check_section(facts: ResultsFacts) -> Section:
    """What became of every check and each of its figures."""
    states, figures = list[tuple[Cell, ...]](), list[tuple[Cell, ...]]()
    for result in facts.results:
        found = result.findings
        broken = bool(found.problems or found.impossible)
        tone = "bad" if broken else STATUS_TONES.get(result.status, "bad")
        state = Badge("problem found" if broken else result.status, tone)
        said = clean(listed([*found.problems, *found.impossible], 3) or result.message)
        states.append((clean(result.check), state, duration_text(result.seconds), said))
        shown = [shown_measured(figure) for figure in found.figures]
        figures += [(clean(result.check), figure.name, figure, figure.note) for figure in shown]
    if not states:
        return Section("Checks")
    text = "Measured says that the check worked, not that its figures are good enough: that is the gate's to say."
    tables = [Table(("check", "state", "took", "found"), tuple(states))]
    if figures:
        tables.append(Table(("check", "figure", "measured", "how"), tuple(figures), "Their figures"))
    return Section("Checks", (text,), tables=tuple(tables))


def shown_measured(figure: Measured) -> Shown:
    """A figure of a check as it is shown."""
    known = figure.value is not None
    return Shown(
        clean(figure.name.replace("_", " ")), figure.value, clean(figure.unit), figure.low, figure.high,
        figure.n if known else None, note=clean(figure.why),
    )  # fmt: skip


def phase_advice(facts: ResultsFacts) -> Iterator[Advice]:
    """What a person can do about each check that did not come out well. Pure."""
    for result in facts.newest().values():
        found = result.findings
        again = f"run it again: {clean(result.rerun)}"
        evidence = clean("; ".join(map(str, found.evidence[:3])))
        for what in (*found.impossible, *found.problems):
            yield Advice("act", f"{clean(result.check)}: {clean(what)}", evidence, again)
        if result.status not in STATUS_TONES:
            yield Advice("act", f"{clean(result.check)} {clean(result.status)}", clean(result.message), again)
        absent = [figure for figure in found.figures if figure.value is None]
        if absent:
            names = listed([clean(figure.name.replace("_", " ")) for figure in absent])
            why = clean("; ".join(dict.fromkeys(figure.why for figure in absent)))
            yield Advice("note", f"{clean(result.check)}: {names} not measurable here", why)


def _heat_maps(facts: ResultsFacts) -> Iterator[Picture]:
    """Of the newest results that hold all pairs; matrices that are none are passed over."""
    drawn = 0
    for result in facts.newest().values():
        pairs = result.findings.details.get("pairs")
        for key, what, unit in (("latency_us", "Latency", "us"), ("send_mib_s", "Bandwidth", "MiB/s")):
            if drawn < MOST_HEAT_MAPS and (matrix := _matrix(pairs, key)) is not None:
                drawn += 1
                title = f"{what} between all pairs ({clean(result.check)})"
                yield heat_map(f"pairs-{drawn}", title, unit, _hosts(pairs), matrix)


def _matrix(pairs: Any, key: str) -> list[list[float]] | None:
    """A square matrix of at least two ranks with a figure beside its diagonal."""
    try:
        values = np.array([[np.nan if v is None else float(v) for v in row] for row in pairs[key]])
    except (KeyError, TypeError, ValueError):
        return None
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
        return None
    off = values[~np.eye(len(values), dtype=bool)]
    return values.tolist() if np.isfinite(off).any() else None


def _hosts(pairs: Mapping[str, Any]) -> list[object]:
    hosts = pairs.get("hosts")
    return hosts if isinstance(hosts, list) else []


def newest_trouble(result: Result) -> str:
    """What is wrong with a result, in a line; empty where nothing is."""
    found = result.findings
    if found.impossible or found.problems:
        return clean([*found.impossible, *found.problems][0])
    return "" if result.status in STATUS_TONES else clean(f"{result.status}: {result.message}")
