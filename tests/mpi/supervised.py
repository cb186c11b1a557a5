"""Supervised jobs and their ranks, found as the kernel sees them: what the tests of recovery act upon."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil
from launch import Job, mpirun

from ryzen_mpi.metrics.events import read_events


def supervise(run_dir: Path, launch: list[str], *options: str) -> list[str]:
    """The command: `launch` (of launch.mpirun) under a supervisor."""
    return [sys.executable, "-m", "ryzen_mpi.supervise", "--run-dir", str(run_dir), *options, "--", *launch]


def supervised(run_dir: Path, ranks: int, *words: str, options: tuple[str, ...] = (), **variables: str) -> Job:
    """Starts the main job under a supervisor."""
    command = supervise(run_dir, mpirun(ranks, *words), *options)
    return Job(command, run_dir.parent, **variables)


def ranks(run_dir: Path) -> dict[int, psutil.Process]:
    """The training processes of a run by rank: children of guards, not guards."""
    found = {}
    for process in psutil.process_iter(["cmdline", "environ"]):
        line, variables = process.info["cmdline"] or [], process.info["environ"] or {}
        if str(run_dir) in line and "RYZEN_MPI_BEACON" in variables and "ryzen_mpi.supervisor.guard" not in line:
            rank = variables.get("PMIX_RANK") or variables.get("OMPI_COMM_WORLD_RANK") or "0"
            found[int(rank)] = process
    return found


def processes(run_dir: Path) -> list[str]:
    """Every process that has the run directory on its command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        if str(run_dir) in (process.info["cmdline"] or []):
            found.append(f"{process.info['pid']}: {' '.join(process.info['cmdline'])}")
    return found


def said(run_dir: Path, action: str) -> list[dict]:
    """The supervisor's events of that action: what is under `ryzen`, and `message`."""
    path = run_dir / "events/supervisor.jsonl"
    if not path.exists():
        return []
    found = [event for event in read_events(path) if event["event"]["action"] == action]
    return [event.get("ryzen", {}) | {"message": event["message"]} for event in found]


def summary(run_dir: Path) -> dict:
    return json.loads((run_dir / "supervisor/summary.json").read_text())


def records(run_dir: Path) -> list[dict]:
    """The attempts as state.json keeps them."""
    return json.loads((run_dir / "supervisor/state.json").read_text())["records"]


def gone(run_dir: Path, limit_s: float = 5.0) -> None:
    """Asserts that no process of the run is left."""
    end = time.monotonic() + limit_s
    while left := processes(run_dir):
        assert time.monotonic() < end, f"orphans: {left}"
        time.sleep(0.1)
