"""From a scaling report's JSON to figures that can be relied on: every field is checked where it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.figures import Figure
from ryzen_mpi.report.texts import clean

FORMAT = 1
FACTORS = {
    "load_balance": "load balance",
    "communication_efficiency": "communication efficiency",
    "computation_scaling": "computation scaling",
}
"""Of an efficiency, whose product it is (POP: Performance Optimisation and Productivity, standard metrics)."""


@dataclass(frozen=True)
class Point:
    """One number of ranks of a series; `factors` by the names in FACTORS, None where one is not known."""

    ranks: int
    nodes: int
    global_batch: int
    samples: int
    launches: int
    throughput: Figure
    speedup: Figure
    efficiency: Figure
    factors: Mapping[str, Figure | None]
    communication_share: Figure | None
    computation_s: Figure | None
    communication_s: Figure | None
    explained: str


@dataclass(frozen=True)
class Series:
    """Strong or weak scaling, the points by rising ranks."""

    mode: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Launch:
    """One real launch, as far as a report shows it."""

    number: int
    mode: str
    ranks: int
    nodes: int
    measured_s: float
    samples: int
    threads: tuple[int, ...]
    waited_share: float | None
    rank_s: tuple[float, ...]
    rank_computation_s: tuple[float, ...]
    rank_communication_s: tuple[float, ...]


@dataclass(frozen=True)
class ScalingFacts:
    """A scaling report. `problems` say why it is INVALID; empty where it is not."""

    path: Path
    made: float
    headline: str
    profile: str
    machine: Mapping[str, Any]
    problems: tuple[str, ...]
    oversubscribed: bool
    strong: Series | None
    weak: Series | None
    launches: tuple[Launch, ...]
    loss_table: Mapping[str, Any]


def read_scaling(path: Path) -> ScalingFacts:
    """The scaling report in the file `path`. Raises UserError where it is none, or a damaged one."""
    hint = "give the JSON file that `ryzen-mpi scale` wrote"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"no scaling report at {path}: {error.strerror}", hint) from None
    except ValueError as error:
        raise UserError(f"{path} is no scaling report, or cut short: {error}", hint) from None
    try:
        if content["format"] != FORMAT:
            raise UserError(f"{path} has format {content['format']}, and this program reads {FORMAT}", hint)
        return _facts(Path(path), content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        what = f"{error} is missing" if isinstance(error, KeyError) else clean(error)
        raise UserError(f"{path} is no scaling report, or a damaged one: {what}", hint) from None


def _facts(path: Path, content: Mapping[str, Any]) -> ScalingFacts:
    strong, weak = (_series(content[mode]) for mode in ("strong", "weak"))
    if strong is None and weak is None:
        raise ValueError("it has neither a strong nor a weak series")
    return ScalingFacts(
        path=path,
        made=float(content["made"]),
        headline=clean(content["headline"]),
        profile=clean(content["profile"]),
        machine=dict(content["machine"]),
        problems=tuple(clean(problem) for problem in content["problems"]),
        oversubscribed=bool(content["oversubscribed"]),
        strong=strong,
        weak=weak,
        launches=tuple(_launch(launch) for launch in content["launches"]),
        loss_table=dict(content.get("loss_table") or {}),
    )


def _series(content: Mapping[str, Any] | None) -> Series | None:
    if content is None:
        return None
    points = sorted((_point(point) for point in content["points"]), key=lambda point: point.ranks)
    if not points:
        raise ValueError("a series has no points")
    return Series(clean(content["mode"]), tuple(points))


def _point(content: Mapping[str, Any]) -> Point:
    return Point(
        **{name: int(content[name]) for name in ("ranks", "nodes", "global_batch", "samples", "launches")},
        **{name: _figure(content[name]) for name in ("throughput", "speedup", "efficiency")},
        factors={name: _perhaps(content.get(name)) for name in FACTORS},
        communication_share=_perhaps(content.get("communication_share")),
        computation_s=_perhaps(content.get("computation_s")),
        communication_s=_perhaps(content.get("communication_s")),
        explained=clean(content.get("explained") or ""),
    )


def _perhaps(content: Mapping[str, Any] | None) -> Figure | None:
    return None if content is None or content.get("value") is None else _figure(content)


def _figure(content: Mapping[str, Any]) -> Figure:
    """A figure; bounds that are not known are the value itself."""
    value = float(content["value"])
    low, high = (value if content[name] is None else float(content[name]) for name in ("low", "high"))
    return Figure(value, low, high, int(content["n"]))


def _launch(content: Mapping[str, Any]) -> Launch:
    waited = content.get("waited_share")
    return Launch(
        number=int(content["number"]),
        mode=clean(content["mode"]),
        ranks=int(content["ranks"]),
        nodes=int(content["nodes"]),
        measured_s=float(content["measured_s"]),
        samples=int(content["samples"]),
        threads=tuple(int(count) for count in content["threads"]),
        waited_share=None if waited is None else float(waited),
        rank_s=_numbers(content["rank_s"]),
        rank_computation_s=_numbers(content["rank_computation_s"]),
        rank_communication_s=_numbers(content["rank_communication_s"]),
    )


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
