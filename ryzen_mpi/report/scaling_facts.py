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
    oversubscribed: bool
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
    """A scaling report.

    Attributes:
        problems: why it is INVALID; insufficient: what was not measured, or too little; disturbed: launches that were.
        strong, weak: None where no launch can be compared with one on one rank.
        launches: those that are whole; `broken` of them are not.
        losses: of each step, by number of ranks; `largest_difference` between them, and what rounding allows.
    """

    path: Path
    made: float
    headline: str
    profile: str
    machine: Mapping[str, Any]
    problems: tuple[str, ...]
    insufficient: tuple[str, ...]
    disturbed: tuple[str, ...]
    oversubscribed: bool
    strong: Series | None
    weak: Series | None
    launches: tuple[Launch, ...]
    broken: int
    losses: Mapping[str, tuple[float, ...]]
    largest_difference: float | None
    tolerance: float | None

    @property
    def series(self) -> tuple[Series, ...]:
        """Those that there are, strong first."""
        return tuple(one for one in (self.strong, self.weak) if one is not None)


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
    launches = [launch for each in content["launches"] if (launch := _launch(each)) is not None]
    table = dict(content.get("loss_table") or {})
    return ScalingFacts(
        path=path,
        made=float(content["made"]),
        headline=clean(content["headline"]),
        profile=clean(content["profile"]),
        machine=dict(content["machine"]),
        **{name: _texts(content.get(name) or ()) for name in ("problems", "insufficient", "disturbed")},
        oversubscribed=bool(content["oversubscribed"]),
        **{mode: _series(content[mode]) for mode in ("strong", "weak")},
        launches=tuple(launches),
        broken=len(content["launches"]) - len(launches),
        losses={clean(ranks): _numbers(values) for ranks, values in dict(table.get("losses") or {}).items()},
        **{name: _maybe(table.get(name)) for name in ("largest_difference", "tolerance")},
    )


def _texts(values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        raise ValueError(f"{values[:40]!r} is not a list of sentences")
    return tuple(clean(value) for value in values)


def _series(content: Mapping[str, Any] | None) -> Series | None:
    if content is None or not content["points"]:
        return None
    return Series(
        clean(content["mode"]), tuple(sorted((_point(p) for p in content["points"]), key=lambda point: point.ranks))
    )  # fmt: skip


def _point(content: Mapping[str, Any]) -> Point:
    return Point(
        **{name: int(content[name]) for name in ("ranks", "nodes", "global_batch", "samples", "launches")},
        **{name: _figure(content[name]) for name in ("throughput", "speedup", "efficiency")},
        factors={name: _perhaps(content.get(name)) for name in FACTORS},
        communication_share=_perhaps(content.get("communication_share")),
        computation_s=_perhaps(content.get("computation_s")),
        communication_s=_perhaps(content.get("communication_s")),
        oversubscribed=bool(content.get("oversubscribed")),
        explained=clean(content.get("explained") or ""),
    )


def _perhaps(content: Mapping[str, Any] | None) -> Figure | None:
    return None if content is None or content.get("value") is None else _figure(content)


def _figure(content: Mapping[str, Any]) -> Figure:
    """A figure; bounds that are not known are the value itself."""
    value = float(content["value"])
    low, high = (value if content[name] is None else float(content[name]) for name in ("low", "high"))
    return Figure(value, low, high, int(content["n"]), float(content.get("confidence", 0.95)))


def _maybe(value: Any) -> float | None:
    return None if value is None else float(value)


def _launch(content: Any) -> Launch | None:
    """A launch; None for what is none: reports hold them as they were found, and their problems say what is wrong."""
    try:
        return Launch(
            **{name: int(content[name]) for name in ("number", "ranks", "nodes", "samples")},
            mode=clean(content["mode"]),
            measured_s=float(content["measured_s"]),
            threads=tuple(int(count) for count in content["threads"]),
            waited_share=_maybe(content.get("waited_share")),
            **{name: _numbers(content[name]) for name in ("rank_s", "rank_computation_s", "rank_communication_s")},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
