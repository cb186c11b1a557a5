"""What the event logs of a run tell: starts, restarts with their causes, where the ranks ran, what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ryzen_mpi.cluster.topology import parse_cpulist
from ryzen_mpi.report.run_facts import Place, Restart
from ryzen_mpi.report.texts import clean

RECORDS = b'"ryzen_mpi.metrics"'
"""Stands in the lines of steps, evaluations and samples, and in no other event's."""
_PLANNED = {"resize", "rollback", "grow", "requeue", "warned", "stopped"}
_CAUSES = _PLANNED | {"fault", "stray-signal"}


@dataclass(frozen=True)
class Told:
    """What all event logs of a run tell together; as in RunFacts."""

    restarts: tuple[Restart, ...] = ()
    places: tuple[Place, ...] = ()
    troubles: tuple[str, ...] = ()
    stopped: str | None = None
    sign_s: float | None = None


def read_told(folder: Path) -> Told:
    """Reads every log in `folder`. Local. Lines that are torn or not of this program are passed over."""
    return told_of({path.stem: list(_events(path)) for path in sorted(folder.glob("*.jsonl"))})


def told_of(logs: Mapping[str, Sequence[dict[str, Any]]]) -> Told:
    """What the events of the logs, by the logs' names in their order, tell together. Pure."""
    ranks = {name: events for name, events in logs.items() if name.startswith("rank-")}
    leader, supervisor = ranks.get("rank-0000", []), logs.get("supervisor", [])
    ends = [event for event in leader if _action(event) in ("start", "stop", "end", "failure")]
    stopped = clean(ends[-1].get("message", "stopped")) if ends and _action(ends[-1]) == "stop" else None
    times = [time_of(events[-1]) for events in logs.values() if events]
    return Told(
        restarts=tuple(_restarts(leader, supervisor)),
        places=tuple(_places(ranks)),
        troubles=tuple(_troubles(ranks)),
        stopped=stopped,
        sign_s=max(times, default=None),
    )


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log without the records of steps, which are most of it and stand in metrics.h5."""
    try:
        with path.open("rb") as file:
            for line in file:
                if RECORDS not in line and (event := event_of(line)) is not None:
                    yield event
    except OSError:
        return


def event_of(line: bytes) -> dict[str, Any] | None:
    """The event in a line of a log; None for one that is torn or not of this program. Pure."""
    try:
        event = json.loads(line)
        return event if isinstance(event["event"]["action"], str) and time_of(event) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _action(event: dict[str, Any]) -> str:
    return event["event"]["action"]


def time_of(event: dict[str, Any]) -> float:
    """Seconds since 1970-01-01 UTC."""
    return datetime.fromisoformat(event["@timestamp"].replace("Z", "+00:00")).timestamp()


def _figure(event: dict[str, Any], name: str) -> Any:
    figures = event.get("ryzen")
    return figures.get(name) if isinstance(figures, dict) else None


def _label(event: dict[str, Any], name: str) -> str | None:
    labels = event.get("labels")
    return labels.get(name) if isinstance(labels, dict) else None


def _restarts(leader: list[dict[str, Any]], supervisor: list[dict[str, Any]]) -> Iterator[Restart]:
    """The supervisor's attempts after the first, the starts by hand after the first, and where the monitor went back,
    in the order of time."""
    starts, found = list[dict[str, Any]](), list[Restart]()
    back: dict[str, Any] | None = None
    for event in leader:
        if _action(event) == "back":
            back = event
        elif _action(event) == "start" and back is None:
            starts.append(event)
        elif _action(event) == "start":
            step, why = _figure(event, "step"), f"the monitor went back: {clean(back.get('message', ''))}"
            found.append(Restart(time_of(event), step if isinstance(step, int) else None, why, False))
            back = None
    by_epoch = {_label(event, "epoch"): event for event in starts}
    cause: dict[str, Any] | None = None
    attempts = 0
    for event in supervisor:
        if _action(event) in _CAUSES:
            cause = event
        elif _action(event) == "attempt":
            attempts += 1
            begun = by_epoch.get(str(_figure(event, "epoch")))
            if attempts > 1 or starts and time_of(starts[0]) < time_of(event):
                why = clean(cause.get("message", "")) if cause else "started again"
                step = _figure(begun, "step") if begun else None
                planned = cause is None or _action(cause) in _PLANNED
                found.append(Restart(time_of(event), step if isinstance(step, int) else None, why, planned))
            cause = None
    for event in starts[1:]:
        if _label(event, "epoch") is None:
            step, ranks = _figure(event, "step"), _figure(event, "ranks")
            why = f"started again by hand on {ranks} ranks"
            found.append(Restart(time_of(event), step if isinstance(step, int) else None, why, True))
    return iter(sorted(found, key=lambda restart: restart.wall_time_s))


def _places(ranks: dict[str, list[dict[str, Any]]]) -> Iterator[Place]:
    """Where each rank of the newest start ran."""
    for name, events in ranks.items():
        starts = [event for event in events if _action(event) == "start"]
        leader = [event for event in ranks.get("rank-0000", []) if _action(event) == "start"]
        if not starts or not leader or not name[5:].isdigit():
            continue
        newest, rank = starts[-1], int(name[5:])
        world = _figure(leader[-1], "ranks")
        if isinstance(world, int) and rank >= world:
            continue  # of an earlier, larger world
        cpus = _figure(newest, "cpus")
        numbers = (_figure(newest, key) for key in ("threads", "node_memory_bytes", "total_steps"))
        yield Place(
            rank,
            clean(_label(newest, "node") or "an unnamed host"),
            _cpus(cpus),
            *(number if isinstance(number, int) else None for number in numbers),
        )


def _cpus(text: object) -> frozenset[int] | None:
    try:
        return frozenset(parse_cpulist(text)) if isinstance(text, str) else None
    except ValueError:
        return None


def _troubles(ranks: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for name, events in ranks.items():
        for event in events:
            if _action(event) in ("failure", "checkpoint_failed"):
                step = _figure(event, "step")
                where = f" after step {step}" if step is not None else ""
                yield clean(f"rank {name[5:].lstrip('0') or '0'}{where}: {event.get('message', '')}")
