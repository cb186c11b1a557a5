"""A report of every kind, from recorded inputs, for tests of what all reports have in common."""

from __future__ import annotations

import json
from pathlib import Path

import report_inputs as inputs

from ryzen_mpi.report.briefing import briefing
from ryzen_mpi.report.content import Report
from ryzen_mpi.report.period_report import period_report
from ryzen_mpi.report.phase_report import phase_report
from ryzen_mpi.report.read_run import read_run
from ryzen_mpi.report.run_report import run_report
from ryzen_mpi.report.scaling_facts import read_scaling
from ryzen_mpi.report.scaling_report import scaling_report

KINDS = ("run", "scaling", "phase", "daily", "weekly", "monthly", "briefing")


def make(kind: str, folder: Path) -> Report:
    """The report of that kind; what it is made of is written into `folder`."""
    if kind == "run":
        return run_report(read_run(inputs.write_run(folder / "runs" / "example")), inputs.NOW)
    if kind == "scaling":
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "scaling.json"
        path.write_text(json.dumps(inputs.scaling(("the samples of rank 2 were trained twice",))))
        return scaling_report(read_scaling(path), inputs.NOW)
    if kind == "phase":
        return phase_report(inputs.read(inputs.write_results(folder / "r", judged=inputs.verdict())), inputs.NOW)
    if kind == "briefing":
        folders = [
            inputs.write_results(
                folder / f"r{day}", inputs.NOW - 86400 * day, inputs.verdict(throughput=463.0 - 30 * day)
            )
            for day in range(4)
        ]
        return briefing([inputs.read(path) for path in folders], inputs.NOW)
    return _period(kind, folder)


def _period(kind: str, folder: Path) -> Report:
    """Two runs and two folders of results in the period, and a folder that cannot be read."""
    inputs.write_run(folder / "runs" / "first")
    inputs.write_run(folder / "runs" / "second", count=120, complete=False, fault=False)
    events = max((path for path in (folder / "runs").rglob("*.jsonl")), key=lambda path: path.stat().st_mtime)
    now = events.stat().st_mtime
    inputs.write_results(folder / "results" / "a", now - 3600, inputs.verdict())
    inputs.write_results(folder / "results" / "b", now - 3 * 86400)
    (folder / "results" / "c").mkdir()
    (folder / "results" / "c" / "campaign.json").write_text("{")
    return period_report(kind, folder, now, inputs.kept_verdict)
