"""Grafana's JSON in the forms that make.py needs: a dashboard, its variables, four kinds of panels. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 39
"""Of Grafana 11; older dashboards are brought up by Grafana itself."""
COLUMNS = 24


@dataclass(frozen=True)
class Query:
    """An expression of PromQL; `legend` names its series, or its column in a table."""

    expr: str
    legend: str = ""


def timeseries(title: str, text: str, queries: Sequence[Query], unit: str, width: int = 8) -> dict[str, Any]:
    """Lines over time. Zero is in the picture only where it is near: the loss would be a flat line."""
    custom = {"lineWidth": 1, "fillOpacity": 5, "showPoints": "auto", "spanNulls": False}
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel("timeseries", title, text, queries, unit, (width, 8), options, custom)


def stat(title: str, text: str, queries: Sequence[Query], unit: str, width: int = 3, **defaults: Any) -> dict[str, Any]:
    """One figure, the newest; `defaults`: thresholds, mappings."""
    options = {
        "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    return _panel("stat", title, text, queries, unit, (width, 4), options, **defaults)


def table(title: str, text: str, queries: Sequence[Query], units: Sequence[str], width: int = 24) -> dict[str, Any]:
    """A row a combination of labels, a column a label and one a query, of this very moment."""
    options = {"showHeader": True, "cellHeight": "sm", "frameIndex": 0}
    panel = _panel("table", title, text, queries, "short", (width, 10), options, {"filterable": True})
    values = ["Value"] if len(queries) == 1 else [f"Value #{target['refId']}" for target in panel["targets"]]
    for target in panel["targets"]:
        target |= {"format": "table", "instant": True, "range": False}
    named = dict(zip(values, (query.legend for query in queries), strict=True))
    hidden = {name: True for name in ("Time", "__name__", "instance", "job")}
    panel["transformations"] = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": hidden, "renameByName": named}},
    ]
    panel["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": query.legend}, "properties": [{"id": "unit", "value": unit}]}
        for query, unit in zip(queries, units, strict=True)
    ]
    return panel


def row(title: str) -> dict[str, Any]:
    """A heading; the panels up to the next belong to it."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"h": 1, "w": COLUMNS}}


def thresholds(*steps: tuple[float | None, str]) -> dict[str, Any]:
    """Colours from a value on; the first is of all below."""
    return {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in steps]}


def dashboard(name: str, title: str, text: str, panels: Iterable[dict[str, Any]], of_run: bool) -> dict[str, Any]:
    """The whole; `of_run`: with a variable that chooses the run."""
    variables = [{"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"}]
    if of_run:
        variables.append(
            {
                "type": "query",
                "name": "run",
                "label": "run",
                "datasource": SOURCE,
                "query": "label_values(ryzen_mpi_step, run)",
                "refresh": 2,
                "sort": 2,
                "multi": False,
                "includeAll": False,
            }
        )
    links = {"type": "dashboards", "title": "ryzen_mpi", "tags": ["ryzen_mpi"], "icon": "external link"}
    links |= {"tooltip": "", "asDropdown": True, "targetBlank": False, "includeVars": True, "keepTime": True}
    return {
        "uid": f"ryzen-mpi-{name}",
        "title": title,
        "description": text,
        "tags": ["ryzen_mpi"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "annotations": {"list": []},
        "links": [links],
        "panels": _laid_out(panels),
    }


def _panel(kind, title, text, queries, unit, size, options, custom=None, **defaults) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend}
        for number, query in enumerate(queries)
    ]
    defaults = {"unit": unit, **defaults} | ({"custom": custom} if custom else {})
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "gridPos": {"h": size[1], "w": size[0]},
        "targets": targets,
        "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }


def _laid_out(panels: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Side by side from left to right, in lines as high as their highest; numbered."""
    placed, x, y, height = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        size = panel["gridPos"]
        if x + size["w"] > COLUMNS:
            x, y, height = 0, y + height, 0
        placed.append(panel | {"id": number, "gridPos": size | {"x": x, "y": y}})
        x, height = x + size["w"], max(height, size["h"])
    return placed
