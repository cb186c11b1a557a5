"""A picture of a dashboard, drawn from its own panels and queries: for a look at it where there is no Grafana.

    env/run python env/monitoring/picture.py run --run NAME --prometheus http://127.0.0.1:9090 --out run.png

Panels stand where the dashboard has them; curves are what Prometheus answers to their queries. Colours, legends and
axes are Matplotlib's, not Grafana's.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).parent / "grafana/dashboards"
POINTS = 240
SCALE = {"s": ("s", 1.0), "percentunit": ("%", 100.0), "bytes": ("MiB", 2.0**-20), "Bps": ("MB/s", 1e-6)}
"""Units of Grafana: how they are shown, and the factor."""
COLUMNS, ROWS = 24, 37
"""The grid of a dashboard, and how many of its rows are drawn."""


def ask(server: str, what: str, **parameters: str | float) -> list[dict[str, Any]]:
    """What Prometheus answers: the series of a query."""
    address = f"{server}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def legend(form: str, labels: dict[str, str]) -> str:
    """Grafana's `{{label}}` filled in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), form).strip()


def draw_curves(axes: Any, panel: dict[str, Any], server: str, fill: dict[str, str], span: tuple[float, float]) -> None:
    unit, factor = SCALE.get(panel["fieldConfig"]["defaults"].get("unit", ""), ("", 1.0))
    begin, end = span
    for target in panel["targets"]:
        step = max(1.0, (end - begin) / POINTS)
        for series in ask(server, "query_range", query=filled(target["expr"], fill), start=begin, end=end, step=step):
            times, values = zip(*((float(t) - begin, factor * float(v)) for t, v in series["values"]), strict=True)
            axes.plot([t / 60 for t in times], values, lw=1.2, label=legend(target["legendFormat"], series["metric"]))
    axes.tick_params(labelsize=6)
    axes.margins(x=0)
    axes.set_ylabel(unit, fontsize=6)
    if 1 < len(axes.lines) <= 8:
        axes.legend(fontsize=5, loc="best", frameon=False)


def draw_number(axes: Any, panel: dict[str, Any], server: str, fill: dict[str, str], end: float) -> None:
    unit, factor = SCALE.get(panel["fieldConfig"]["defaults"].get("unit", ""), ("", 1.0))
    found = ask(server, "query", query=filled(panel["targets"][0]["expr"], fill), time=end)
    text = f"{factor * float(found[0]['value'][1]):.4g} {unit}" if found else "no data"
    axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=13, transform=axes.transAxes)
    axes.set_axis_off()


def filled(expression: str, fill: dict[str, str]) -> str:
    """A query with the dashboard's variables put in."""
    for name, value in fill.items():
        expression = expression.replace(f"${name}", value)
    return expression


def draw(dashboard: dict[str, Any], server: str, fill: dict[str, str], span: tuple[float, float]) -> Any:
    """The dashboard as a figure of Matplotlib; `span`: begin and end in seconds since 1970."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(12, ROWS * 0.26), layout="none")
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        if place["y"] + place["h"] > ROWS:
            continue
        left, bottom = place["x"] / COLUMNS, 1 - (place["y"] + place["h"]) / ROWS
        if panel["type"] == "row":
            figure.text(left + 0.01, bottom + 0.006, panel["title"], fontsize=9, weight="bold")
            continue
        box = (left + 0.03, bottom + 0.022, place["w"] / COLUMNS - 0.045, place["h"] / ROWS - 0.05)
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=7, loc="left")
        if panel["type"] == "stat":
            draw_number(axes, panel, server, fill, span[1])
        else:
            draw_curves(axes, panel, server, fill, span)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dashboard", choices=sorted(path.stem for path in DASHBOARDS.glob("*.json")))
    parser.add_argument("--run", required=True, help="name of the run, for the variable of the same name")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--minutes", type=float, default=30.0, help="how far back")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    options = parser.parse_args()
    content = json.loads((DASHBOARDS / f"{options.dashboard}.json").read_text())
    end = time.time()
    figure = draw(content, options.prometheus, {"run": options.run}, (end - 60 * options.minutes, end))
    figure.savefig(options.out, dpi=110)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
