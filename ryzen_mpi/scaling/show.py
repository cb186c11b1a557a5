"""A scaling report as tables for a terminal and as Markdown: the same rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ryzen_mpi.units import rate_text

COLUMNS = (
    *("ranks", "samples/s", "speedup", "efficiency %", "load balance %"),
    *("communic. %", "computation %", "blocked %", "n"),
)
MOST_LINES = 8
LEGEND = (
    "efficiency = load balance x communication efficiency x computation scaling, in each launch (docs/scaling.md). "
    "blocked: share of the time spent in collectives. Brackets: "
)


def rows(series: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a number of ranks, as COLUMNS."""
    return [
        (
            f"{point['ranks']}{' (shared cores)' if point.get('oversubscribed') else ''}",
            figure_text(point["throughput"], rate_text),
            figure_text(point["speedup"], _number),
            figure_text(point["efficiency"], percent),
            figure_text(point["load_balance"], percent),
            figure_text(point["communication_efficiency"], percent),
            figure_text(point["computation_scaling"], percent),
            figure_text(point["communication_share"], percent),
            str(point["launches"]),
        )
        for point in series["points"]
    ]


def figure_text(figure: Mapping[str, Any], text: Any) -> str:
    """'1.83 [1.79, 1.86]', or '?' where it is not known."""
    if figure["value"] is None:
        return "?"
    if figure["n"] < 2 or figure["low"] == figure["high"]:
        return text(figure["value"])
    return f"{text(figure['value'])} [{text(figure['low'])}, {text(figure['high'])}]"


def legend(report: Mapping[str, Any]) -> str:
    """What the columns and brackets are."""
    held = [
        point["efficiency"]["confidence"]
        for mode in ("strong", "weak")
        for point in (report[mode] or {}).get("points", [])
        if point["efficiency"]["n"] > 1
    ]
    brackets = f"{100 * min(held):.4g} % intervals (Hodges-Lehmann, over launches)." if held else "none of one launch."
    return LEGEND + brackets


def notes(report: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Headings with their lines: problems, what is missing, explained, failed, disturbed."""
    points = [(mode, point) for mode in ("strong", "weak") for point in (report[mode] or {}).get("points", [])]
    explained = [f"{mode}, {p['ranks']} ranks, above 1: {p['explained']}" for mode, p in points if p["explained"]]
    failed = [
        f"launch {f['number']} ({f['mode']}, {f['ranks']} ranks): {f['why'].splitlines()[0]}" for f in report["failed"]
    ]
    named = (
        ("cannot be true or compared: INVALID", report["problems"]),
        ("missing for a verdict: INSUFFICIENT", report["insufficient"]),
        ("explained", explained),
        ("failed launches", failed),
        ("disturbed launches", report["disturbed"]),
    )
    return [(title, _shortened(lines)) for title, lines in named if lines]


def _shortened(lines: Sequence[str]) -> list[str]:
    """The report has them all."""
    rest = len(lines) - MOST_LINES
    return list(lines) if rest <= 1 else [*lines[:MOST_LINES], f"and {rest} more (scaling.json)"]


def loss_line(report: Mapping[str, Any]) -> str | None:
    """Whether all numbers of ranks trained the same model, in a line; None where there is nothing to compare."""
    table = report["loss_table"]
    if not table or len(table["losses"]) < 2:
        return None
    return (
        f"losses at the global batch {table['global_batch']} agree to {table['largest_difference']:.1e} over "
        f"{', '.join(table['losses'])} ranks (rounding allows {table['tolerance']:g})"
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report as a page."""
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items() if not isinstance(value, list))
    where = f"Profile {report['profile']}; {machine or 'machine unknown'}."
    lines = ["# Scaling", "", report["headline"], "", where, ""]
    if report["overrides"]:
        lines += [f"Settings changed: {' '.join(map(str, report['overrides']))}", ""]
    for mode in ("strong", "weak"):
        if report[mode]:
            lines += [f"## {mode.capitalize()} scaling", "", *table(COLUMNS, rows(report[mode])), ""]
    lines += [legend(report), ""]
    if said := loss_line(report):
        lines += [said[0].upper() + said[1:] + ".", ""]
    losses = report["loss_table"].get("losses", {}) if report["loss_table"] else {}
    if losses:
        steps = zip(*losses.values(), strict=False)
        body = [(str(step), *(f"{loss:.6f}" for loss in each)) for step, each in enumerate(steps, start=1)]
        lines += ["## Losses", "", *table(("step", *(f"{ranks} ranks" for ranks in losses)), body), ""]
    for title, items in notes(report):
        lines += [f"## {title.capitalize()}", "", *(f"- {' / '.join(item.splitlines())}" for item in items), ""]
    return "\n".join(lines)


def table(columns: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return head + [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in body]


def percent(value: float) -> str:
    """Of a share, without the sign: the column has it."""
    return f"{100 * value:.1f}"


def _number(value: float) -> str:
    return f"{value:.3g}"
