"""Makes the dashboards, and the tables of docs/monitoring.md, from the table of signals and from alerts.yml.

env/run python env/monitoring/make.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from panels import Query, dashboard, row, stat, table, thresholds, timeseries

from ryzen_mpi.metrics.exposition import STEP_COUNTERS, SUMMED, summed_name
from ryzen_mpi.metrics.signals import RANKED, SIGNALS, Signal, prometheus_name

HERE = Path(__file__).resolve().parent
DASHBOARDS = HERE / "grafana/dashboards"
DOCUMENT = HERE.parents[1] / "docs/monitoring.md"

UNITS = {"s": "s", "B": "bytes", "B/s": "binBps", "1/s": "cps", "Hz": "hertz", "°C": "celsius", "W": "watt"}
SHARES = ("share", "pressure", "accuracy")
RUN = '{run="$run"}'
RATE = "[$__rate_interval]"


def unit_of(signal: Signal) -> str:
    """Grafana's name of a signal's unit."""
    if signal.unit == "1" and signal.name.rpartition("_")[2] in SHARES:
        return "percentunit"
    return UNITS.get(signal.unit, "short")


def panel_of(signal: Signal) -> dict:
    """The panel of a signal: a line, or one a rank or layer."""
    title = signal.name.removeprefix("rank_").removesuffix("_s").removesuffix("_bytes").replace("_", " ")
    by, legend = "run", "all ranks" if signal.kind != "evaluation" else "held-out data"
    if signal.kind in RANKED:
        title, by, legend = f"{title}, each rank", "rank, node", "{{rank}} {{node}}"
    elif signal.kind == "layer":
        title, by, legend = f"{title}, each layer", "layer", "{{layer}}"
    if signal.name in SUMMED:
        expr = f"max by ({by}) (rate({summed_name(signal)}_total{RUN}{RATE}))"
        return timeseries(title, f"{signal.description}; a second", [Query(expr, legend)], "cps")
    expr = f"max by ({by}) ({prometheus_name(signal)}{RUN})"
    if signal.name == "wall_time_s":
        return timeseries("age of the newest step", "since its end", [Query(f"time() - {expr}", legend)], "s")
    return timeseries(title, signal.description, [Query(expr, legend)], unit_of(signal))


def panels_of(*groups: str) -> Iterator[dict]:
    """A heading and the panels of each group's signals, in the table's order."""
    for group in groups:
        yield row(group)
        yield from (panel_of(signal) for signal in SIGNALS.values() if signal.group == group)


def fleet() -> dict:
    """All runs at a glance."""
    alerts = 'count(ALERTS{alertname=~"RyzenMpi.*", alertstate="firing"}) or vector(0)'
    down = 'count(up{job="ryzen_mpi"} == 0) or vector(0)'
    good = thresholds((None, "green"), (1, "red"))
    columns = (
        ("running", "run:ryzen_mpi_running:max", "short"),
        ("step", "max by (run) (ryzen_mpi_step)", "short"),
        ("loss", "run:ryzen_mpi_loss:max", "short"),
        ("tokens/s", "run:ryzen_mpi_tokens:rate1m", "short"),
        ("ranks", "run:ryzen_mpi_ranks:max", "short"),
        ("communication", "run:ryzen_mpi_communication_share:rate5m", "percentunit"),
        ("since the newest step", "run:ryzen_mpi_step_age_seconds:min", "s"),
        ("since the newest checkpoint", "min by (run) (ryzen_mpi_checkpoint_age_seconds)", "s"),
    )
    panels = [
        stat("running", "runs that train", [Query("count(run:ryzen_mpi_running:max == 1) or vector(0)")], "short"),
        stat("alerts", "that fire now", [Query(alerts)], "short", thresholds=good),
        stat("gone", "runs whose port does not answer", [Query(down)], "short", thresholds=good),
        stat("tokens/s", "all runs", [Query("sum(run:ryzen_mpi_tokens:rate1m)")], "short"),
        stat("ranks", "of all running runs", [Query("sum(run:ryzen_mpi_ranks:max)")], "short"),
        table("runs", "", [Query(expr, name) for name, expr, _ in columns], [unit for *_, unit in columns]),
        timeseries("tokens/s", "over 1 min", [Query("run:ryzen_mpi_tokens:rate1m", "{{run}}")], "short"),
        timeseries("loss", "nat a token", [Query("run:ryzen_mpi_loss:max", "{{run}}")], "short"),
        timeseries(
            "communication",
            "share of the steps' time that ranks wait in collectives, over 5 min",
            [Query("run:ryzen_mpi_communication_share:rate5m", "{{run}}")],
            "percentunit",
        ),
        timeseries(
            "memory that is left",
            "smallest share, a node",
            [Query("node:ryzen_mpi_memory_available:ratio", "{{run}} {{node}}")],
            "percentunit",
        ),
        timeseries(
            "slowest rank",
            "its own work over the median of the run's ranks",
            [Query("max by (run) (rank:ryzen_mpi_work:ratio)", "{{run}}")],
            "short",
        ),
        timeseries(
            "disk",
            "free where the checkpoints go",
            [Query("run:ryzen_mpi_disk_free_bytes:min", "{{run}}")],
            "bytes",
        ),
    ]
    return dashboard("fleet", "ryzen_mpi fleet", "All runs", panels, of_run=False)


def run() -> dict:
    """One run: how far, how fast, how well."""

    def newest(title: str, name: str, unit: str = "short", **more) -> dict:
        text = SIGNALS[name].description
        return stat(title, text, [Query(f"max by (run) ({prometheus_name(SIGNALS[name])}{RUN})")], unit, **more)

    age = f"run:ryzen_mpi_step_age_seconds:min{RUN}"
    speed = f"max by (run) (ryzen_mpi_tokens{RUN} / ryzen_mpi_step_seconds{RUN})"
    over_a_minute = f"run:ryzen_mpi_tokens:rate1m{RUN}"
    saved = f"(ryzen_mpi_last_sample_timestamp_seconds{RUN} - ryzen_mpi_checkpoint_age_seconds{RUN})"
    unsaved = f"time() - max by (run) {saved}"
    wrong = f"max by (run) (ryzen_mpi_attempt_not_finite_steps_total{RUN})"
    panels = [
        newest("step", "step"),
        newest("loss", "loss"),
        newest("held-out loss", "held_out_loss"),
        stat("tokens/s", "of the newest step", [Query(speed)], "short"),
        newest("ranks", "ranks"),
        stat("newest step", "time since its end", [Query(age)], "s"),
        stat("newest checkpoint", "since it was on disk, or since the start", [Query(unsaved)], "s"),
        stat("not finite", STEP_COUNTERS["ryzen_mpi_attempt_not_finite_steps"], [Query(wrong)], "short"),
        timeseries(
            "tokens/s",
            "of a step; and over a minute, with all that lies between steps",
            [Query(speed, "a step"), Query(over_a_minute, "over a minute")],
            "short",
        ),
        timeseries(
            "work, each rank",
            "what a rank takes without waiting for others, over the median of the ranks",
            [Query(f"rank:ryzen_mpi_work:ratio{RUN}", "{{rank}} {{node}}")],
            "short",
        ),
        *panels_of("training", "evaluation", "gradients", "system"),
    ]
    return dashboard("run", "ryzen_mpi run", "One run: how far, how fast, how well", panels, of_run=True)


def communication() -> dict:
    """One run: its collectives and its network."""
    share = f"run:ryzen_mpi_communication_share:rate5m{RUN}"
    first = timeseries("share, of all steps", "over 5 min", [Query(share, "mean of the ranks")], "percentunit", 24)
    panels = [first, *panels_of("communication")]
    return dashboard("communication", "ryzen_mpi communication", "Collectives and network", panels, of_run=True)


def hardware() -> dict:
    """One run: its nodes."""
    left = f"node:ryzen_mpi_memory_available:ratio{RUN}"
    first = timeseries("memory that is left", "a node", [Query(left, "{{node}}")], "percentunit", 24)
    return dashboard("hardware", "ryzen_mpi hardware", "Nodes", [first, *panels_of("hardware")], of_run=True)


def gates() -> dict:
    """What `ryzen-mpi gate PHASE --prometheus FILE.prom` wrote."""
    said = "max by (phase, set, verdict) (ryzen_mpi_gate_verdict == 1)"
    by = "phase, set, check, figure"
    met = f"max by ({by}, threshold, verdict) (ryzen_mpi_gate_threshold_met)"
    panels = [
        stat("verdict", "of each phase", [Query(said, "{{phase}} {{set}}: {{verdict}}")], "short", 24, mappings=[]),
        timeseries(
            "thresholds that stand in the way",
            "a phase",
            [Query(f"sum by (phase, set) (1 - {met})", "{{phase}} {{set}}")],
            "short",
            12,
        ),
        timeseries(
            "since the gate was asked",
            "a verdict does not change by itself",
            [Query("time() - max by (phase, set) (ryzen_mpi_gate_judged_timestamp_seconds)", "{{phase}} {{set}}")],
            "s",
            12,
        ),
        table("thresholds", "1: met", [Query(met, "met")], ["short"]),
        table("figures", "as measured", [Query(f"max by ({by}, unit) (ryzen_mpi_gate_figure)", "value")], ["short"]),
    ]
    return dashboard("gates", "ryzen_mpi gates", "May the next phase start?", panels, of_run=False)


ALL = (fleet, run, communication, hardware, gates)


def dashboards() -> dict[Path, str]:
    """The text of every dashboard, by its file."""
    return {
        DASHBOARDS / f"{make.__name__}.json": json.dumps(make(), indent=1, ensure_ascii=False) + "\n" for make in ALL
    }


def alerts_table() -> str:
    """A row an alert: when and what to do, in the words of alerts.yml."""
    rules = yaml.safe_load((HERE / "alerts.yml").read_text())["groups"][0]["rules"]
    rows = ["| alert | severity | fires when, for how long | what to do |", "|---|---|---|---|"]
    for rule in rules:
        when = re.sub(r" and on \(run\) run:ryzen_mpi_running:max == 1$", "", " ".join(rule["expr"].split()))
        when = when.replace("|", r"\|")
        action = rule["annotations"]["action"].replace("|", r"\|")
        held = rule.get("for", "at once")
        rows.append(f"| `{rule['alert']}` | {rule['labels']['severity']} | `{when}`, {held} | {action} |")
    return "\n".join(rows)


def counters_table() -> str:
    """A row a counter."""
    rows = ["| counter | labels beside run, jobid | unit | what |", "|---|---|---|---|"]
    for name, text in STEP_COUNTERS.items():
        rows.append(f"| `{name}_total` | | {'s' if 'seconds' in name else '1'} | {text} |")
    for name in SUMMED:
        text = f"{SIGNALS[name].description}, added up in this attempt"
        rows.append(f"| `{summed_name(SIGNALS[name])}_total` | rank, node | 1 | {text} |")
    return "\n".join(rows)


def document(text: str) -> str:
    """`text` of docs/monitoring.md with its tables made anew, each between its two marks."""
    for name, made in (("alerts", alerts_table()), ("counters", counters_table())):
        begin, end = f"<!-- {name}: made by env/monitoring/make.py -->", f"<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        if not found or end not in rest:
            sys.exit(f"docs/monitoring.md has lost its marks of {name}")
        text = f"{head}{begin}\n{made}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Writes all of them."""
    for path, text in (dashboards() | {DOCUMENT: document(DOCUMENT.read_text())}).items():
        path.write_text(text)


if __name__ == "__main__":
    main()
