"""Results as JUnit XML, which every CI shows. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from ryzen_mpi.validation.gate import Row
from ryzen_mpi.validation.result import Result

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")


def junit(phase: str, results: Sequence[Result], rows: Mapping[str, Sequence[Row]]) -> str:
    """The newest result of each check as a test case; `rows`: their thresholds by check."""
    newest = {result.check: result for result in results}
    suite = ElementTree.Element("testsuite", name=f"ryzen_mpi phase {phase}", tests=str(len(newest)))
    counts = dict.fromkeys(("failures", "errors", "skipped"), 0)
    for result in newest.values():
        case = ElementTree.SubElement(
            suite, "testcase", classname="validation", name=result.check, time=f"{result.seconds:.3f}"
        )
        kind, text = _outcome(result, rows.get(result.check, ()))
        if kind:
            counts[{"failure": "failures", "error": "errors", "skipped": "skipped"}[kind]] += 1
            ElementTree.SubElement(case, kind, message=_clean(text.splitlines()[0])).text = _clean(text)
        lines = [f"{f.name} = {f.value} {f.unit} (n={f.n}) {f.why}" for f in result.findings.figures]
        ElementTree.SubElement(case, "system-out").text = _clean("\n".join([*lines, f"again: {result.rerun}"]))
    for name, count in counts.items():
        suite.set(name, str(count))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _outcome(result: Result, rows: Sequence[Row]) -> tuple[str, str]:
    """(element, text); ("", "") where it passed."""
    if result.status == "not measurable":
        return "skipped", result.message or "not measurable here"
    if result.status != "measured":
        return "error", f"{result.status}: {result.message}"
    wrong = [*result.findings.impossible, *result.findings.problems]
    wrong += [f"{row.figure}: {row.verdict}, asked {row.threshold} {row.reason}" for row in rows if row.means != "GO"]
    if wrong:
        return "failure", "\n".join([*wrong, *result.findings.evidence])
    return "", ""


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
