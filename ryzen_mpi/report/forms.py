"""A report's three forms. They hold the same figures, since all are made from the same `Report`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.report.content import Badge, Cell, Report, Section, Shown, Table
from ryzen_mpi.report.texts import clean, moment_text
from ryzen_mpi.rundir import write_atomic

FORMAT = 1
FORMS = ("html", "md", "json")
LEVELS = {"act": "Act", "watch": "Watch", "note": "Note"}

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(report: Report, out: Path, forms: tuple[str, ...] = FORMS) -> list[Path]:
    """Writes the report and returns the paths. Raises UserError.

    Args:
        out: a file name whose ending says its form, or a folder, which is made where it is missing.
        forms: of FORMS; with a file name the forms beside its own have its stem.
    """
    out = Path(out)
    named = out.suffix.lower().lstrip(".") in FORMS and not out.is_dir()
    folder, stem = (out.parent, out.stem) if named else (out, report.kind)
    paths = [folder / f"{stem}.{form}" for form in forms]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            write_atomic(path, _made(report, path))
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} can't be written: {error.strerror or error}", "choose another with --out"
        ) from None
    return paths


def _made(report: Report, path: Path) -> str:
    """The text of the form that `path` is named for; pictures of Markdown are written beside it."""
    if path.suffix == ".html":
        return to_html(report)
    if path.suffix == ".json":
        return json.dumps(to_json(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    pictures = path.with_name(f"{path.stem}-pictures")
    drawn = [picture for section in report.sections for picture in section.pictures]
    if drawn:
        pictures.mkdir(exist_ok=True)
    for picture in drawn:
        write_atomic(pictures / f"{picture.name}.svg", picture.wide + "\n")
    return to_markdown(report, pictures.name)


# -- HTML -------------------------------------------------------------------------------------------------------------


def to_html(report: Report) -> str:
    """One file that fetches nothing: styles and pictures are inside. Texts are escaped. Pure."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.tests |= {
        "shown": lambda cell: isinstance(cell, Shown),
        "badge": lambda cell: isinstance(cell, Badge),
    }
    environment.filters |= {"moment": moment_text, "svg": Markup}
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html.j2").render(report=report, style=style, levels=LEVELS)


# -- Markdown ---------------------------------------------------------------------------------------------------------

_SPECIAL = "\\`*_{}[]<>#|~&!"
_LIST = re.compile(r"^(\d*)([.)]|[-+=])(?=\s|$)")


def to_markdown(report: Report, pictures: str) -> str:
    """GitHub's Markdown; texts are escaped. `pictures` is the folder, beside the file, that holds them. Pure."""
    lines = [f"# {_md(report.title)}", "", _md(report.subtitle), "", f"**{_md(report.headline.verdict)}**"]
    if report.headline.text:
        lines += ["", _md(report.headline.text)]
    lines += ["", *_md_figures(report.key)]
    for section in report.sections:
        lines += [f"## {_md(section.title)}", "", *_md_section(section, pictures)]
    lines.append(f"Made {moment_text(report.made)} by ryzen-mpi" + (" from:" if report.sources else "."))
    lines += ["", *(f"- {_md(source)}" for source in report.sources)]
    return "\n".join(lines).rstrip() + "\n"


def _md_section(section: Section, pictures: str) -> Iterator[str]:
    for text in section.text:
        yield from (_md(text), "")
    for command in section.commands:
        yield from (f"    {' '.join(clean(command).split())}", "")
    yield from _md_figures(section.figures)
    for picture in section.pictures:
        yield from (f"![{_md(picture.words)}]({pictures}/{picture.name}.svg)", "")
    for table in section.tables:
        yield from _md_table(table)
    for advice in section.advice:
        yield f"- **{LEVELS[advice.level]}:** {_md(advice.sentence)}" + (f" → {_md(advice.do)}" if advice.do else "")
    if section.advice:
        yield ""


def _md_figures(figures: tuple[Shown, ...]) -> Iterator[str]:
    if figures:
        rows = tuple((f.name, f, f.target, f.badge or "", f.note) for f in figures)
        yield from _md_table(Table(("figure", "value", "target", "", "note"), rows))


def _md_table(table: Table) -> Iterator[str]:
    if table.title:
        yield from (f"**{_md(table.title)}**", "")
    right = [table.is_flush_right(column) for column in range(len(table.columns))]
    yield "| " + " | ".join(map(_md, table.columns)) + " |"
    yield "|" + "|".join("---:" if flush else "---" for flush in right) + "|"
    for row in table.rows:
        yield "| " + " | ".join(map(_md_cell, row)) + " |"
    yield ""


def _md_cell(cell: Cell) -> str:
    if isinstance(cell, Shown):
        return _md(f"{cell.text} ({cell.spread})" if cell.spread else cell.text)
    return (
        f"**{_md(cell.text)}**" if isinstance(cell, Badge) and cell.text else _md(cell if isinstance(cell, str) else "")
    )


def _md(text: str) -> str:
    """`text` as itself: nothing in it is markup, and it stays on its line."""
    plain = " ".join(clean(text).split())
    escaped = "".join(f"\\{character}" if character in _SPECIAL else character for character in plain)
    return _LIST.sub(r"\1\\\2", escaped)


# -- JSON -------------------------------------------------------------------------------------------------------------


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON values: every figure with its numbers, and as it is shown in the other forms. Pure."""
    return {
        "format": FORMAT,
        "kind": report.kind,
        "title": report.title,
        "subtitle": report.subtitle,
        "made": report.made,
        "headline": {name: getattr(report.headline, name) for name in ("verdict", "tone", "text")},
        "key": [_json_figure(figure) for figure in report.key],
        "sections": [_json_section(section) for section in report.sections],
        "sources": list(report.sources),
    }


def _json_section(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "text": list(section.text),
        "commands": list(section.commands),
        "figures": [_json_figure(figure) for figure in section.figures],
        "pictures": [{"name": p.name, "title": p.title, "words": p.words} for p in section.pictures],
        "tables": [
            {
                "title": table.title,
                "columns": list(table.columns),
                "rows": [[_json_cell(cell) for cell in row] for row in table.rows],
            }
            for table in section.tables
        ],
        "advice": [{"level": a.level, "what": a.what, "why": a.why, "do": a.do} for a in section.advice],
    }


def _json_cell(cell: Cell) -> Any:
    if isinstance(cell, Shown):
        return _json_figure(cell)
    return {"verdict": cell.text, "tone": cell.tone} if isinstance(cell, Badge) else cell


def _json_figure(figure: Shown) -> dict[str, Any]:
    return {
        "name": figure.name,
        "value": _finite(figure.value),
        "low": _finite(figure.low),
        "high": _finite(figure.high),
        "n": figure.n,
        "confidence": figure.confidence,
        "unit": figure.unit,
        "text": figure.text,
        "spread": figure.spread,
        "target": figure.target,
        "verdict": figure.badge.text if figure.badge else "",
        "note": figure.note,
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
