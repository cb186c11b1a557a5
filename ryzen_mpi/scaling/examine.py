"""Scaling results from outside, in the documents' form or as a report of this program: can they be true?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ryzen_mpi.scaling import account, compose, documents, plausible
from ryzen_mpi.scaling.record import MODES, Launch, parse

ROUNDING = 1e-6
MOST_LAUNCHES = 100_000


def examine(paths: Sequence[Path]) -> list[str]:
    """What in these files cannot be true; empty if nothing. Local. Raises UserError where one cannot be read.

    Files of the documents' form are looked at together, reports each by itself.
    """
    told, found = [], []
    for path in paths:
        values = documents.load(path)
        if isinstance(values, Mapping) and "launches" in values:
            found += [f"{path.name}: {text}" for text in examine_report(values)]
        else:
            told.append(documents.read_document(values, path.name))
    return found + documents.examine(told)


def examine_report(values: Mapping[str, Any]) -> list[str]:
    """What in a report cannot be true: of its launches, and of what it claims to follow from them. Pure."""
    if values.get("format") != compose.FORMAT:
        return [f"its format is {values.get('format')!r}, and this program reads {compose.FORMAT}"]
    told = values["launches"]
    if not isinstance(told, list) or len(told) > MOST_LAUNCHES:
        return [f"its launches are not a list of at most {MOST_LAUNCHES}"]
    said = values.get("problems")
    problems = [text for text in said if isinstance(text, str)] if isinstance(said, list) else []
    found = [f"it says itself: {text}" for text in problems] + plausible.problems(told)
    if not told:
        return found or ["it has no launches, so nothing in it can be checked"]
    launches = []
    for each in told:
        try:
            launches.append(parse(each))
        except ValueError:
            continue  # `plausible` has said so
    if found or not launches:
        return found
    for mode in MODES:
        found += account.unexplained(launches, mode)
        found += _claims(values.get(mode), launches, mode)
    return found


def _claims(series: Any, launches: Sequence[Launch], mode: str) -> list[str]:
    """Where the report's own figures are not those of its launches."""
    ours = account.series(launches, mode)
    if ours is None or not isinstance(series, Mapping) or not isinstance(series.get("points"), list):
        return [] if ours is None and series is None else [f"its {mode} scaling is not that of its launches"]
    claimed = {str(point.get("ranks")): point for point in series["points"] if isinstance(point, Mapping)}
    found = []
    for point in ours["points"]:
        its = claimed.get(str(point["ranks"]), {})
        for name in ("throughput", "speedup", "efficiency"):
            figure = its.get(name)
            value = figure.get("value") if isinstance(figure, Mapping) else None
            right = point[name]["value"]
            if not isinstance(value, (int, float)) or not math.isclose(value, right, rel_tol=ROUNDING):
                found.append(
                    f"its {mode} {name} at {point['ranks']} ranks is {value}, and its launches give {right:.6g}"
                )
    return found
