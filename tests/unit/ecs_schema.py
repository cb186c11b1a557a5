"""What ECS 1.6.0 (the version that ecs-logging writes) says of the fields that are used here.

From its field reference. No package on PyPI ships the schema itself, so the part in use is listed: a field that comes
into use goes in here with its type from the reference, or below ryzen. where ECS has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

VERSION = "1.6.0"
FIELDS = {
    "@timestamp": "date",
    "message": "text",
    "ecs.version": "keyword",
    "event.action": "keyword",
    "event.category": "keywords",
    "event.dataset": "keyword",
    "event.kind": "keyword",
    "event.type": "keywords",
    "host.name": "keyword",
    "log.level": "keyword",
    "log.logger": "keyword",
    "process.pid": "long",
    "service.name": "keyword",
}
REQUIRED = ("@timestamp", "message", "ecs.version", "log.level", "event.action", "event.dataset", "service.name")
ALLOWED = {
    "ecs.version": {VERSION},
    "event.kind": {"alert", "event", "metric", "state", "pipeline_error", "signal"},
    "event.category": {"network", "process"},
    "event.type": {"info"},
    "log.level": {"debug", "info", "warning", "error", "critical"},
}
"""event.category and event.type: of the allowed ones those that are used; info goes with both categories."""


def problems(line: Mapping[str, Any]) -> list[str]:
    """What is wrong with a line, as ECS sees it; nothing where it is in order."""
    fields = dict(_flat(line))
    found = [f"{name} is missing" for name in REQUIRED if name not in fields]
    for name, value in fields.items():
        if name.startswith("labels."):
            wrong = "" if isinstance(value, str) else "no keyword"
        elif name.startswith("ryzen."):
            wrong = _wrong_figure(value)
        elif name in FIELDS:
            wrong = _wrong(FIELDS[name], value) or _not_allowed(name, value)
        else:
            wrong = "no field of ECS"
        found += [f"{name}={value!r}: {wrong}"] * bool(wrong)
    return found


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, inner


def _wrong(kind: str, value: Any) -> str:
    if kind == "date":
        try:
            return "" if datetime.fromisoformat(value.replace("Z", "+00:00")).tzinfo else "no time zone"
        except (AttributeError, ValueError):
            return "no date"
    if kind == "keywords":
        return "" if isinstance(value, list) and all(isinstance(item, str) for item in value) else "no list of keywords"
    wanted = {"keyword": str, "text": str, "long": int}[kind]
    return "" if isinstance(value, wanted) and not isinstance(value, bool) else f"no {kind}"


def _not_allowed(name: str, value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return "" if set(values) <= ALLOWED.get(name, set(values)) else "not an allowed value"


def _wrong_figure(value: Any) -> str:
    """Elasticsearch takes a number, a text, a truth, or a list of one of them in which some may be null."""
    items = [item for item in value if item is not None] if isinstance(value, list) else [value]
    kinds = {"number" if type(item) in (int, float) else type(item).__name__ for item in items}
    return "" if kinds <= {"number"} or kinds <= {"str"} or kinds <= {"bool"} else f"of kinds {sorted(kinds)}"
