"""From a run directory to `RunFacts`. What is missing or damaged is named, and what is left is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.events import event_file, read_records
from ryzen_mpi.metrics.reader import read_metrics
from ryzen_mpi.metrics.record import EvaluationRecord, StepRecord
from ryzen_mpi.report.read_events import Told, read_told
from ryzen_mpi.report.run_facts import RunFacts, Steps, batches
from ryzen_mpi.report.texts import clean
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.supervisor.files import Files

_PATHS = {
    "step": "training",
    "wall_time_s": "training",
    "loss": "training",
    "gradient_norm": "training",
    "samples": "training",
    "step_s": "training",
    "communication_s": "communication",
    "skipped": "training",
    "ranks": "training",
    "rank_step_s": "training",
    "rank_communication_s": "communication",
    "rank_rss_bytes": "hardware",
}


def is_run(path: Path) -> bool:
    """Whether `path` is a directory that a run has written to."""
    run = RunDirectory(Path(path))
    return any(there.exists() for there in (run.config, run.metrics, run.events, run.complete))


def read_run(path: Path) -> RunFacts:
    """Everything known of the run in the directory `path`. Local.

    Raises UserError where there is no run, and where its metrics are damaged and no event log can stand in for them.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"no run directory at {path}", "give the directory that a run was started with (--run-dir)")
    if not is_run(path):
        raise UserError(
            f"{path} is no run directory: it holds none of config.yaml, metrics.h5, events and COMPLETE.json",
            "give the directory that a run was started with (--run-dir)",
        )
    run, missing = RunDirectory(path), list[str]()
    steps, held_out, sources = _steps(run, missing)
    told = read_told(run.events) if run.events.is_dir() else Told()
    if not run.events.is_dir():
        missing.append("no event logs: restarts and failures are not known")
    files = Files(run)
    documents = {
        run.complete: _document(run.complete, missing, "the run has not reached its end"),
        files.failed: _document(files.failed, missing),
        files.summary: _document(files.summary, missing),
    }
    settings = _settings(run, missing)
    if steps is not None and told.places and all(place.cpus is None for place in told.places):
        missing.append("the ranks' cores were not recorded: whether ranks share cores is not known")
    return RunFacts(
        path=Path(clean(path.resolve())),
        settings=settings,
        steps=steps,
        held_out=held_out,
        complete=documents[run.complete],
        failed=documents[files.failed],
        account=documents[files.summary],
        stopped=told.stopped,
        restarts=told.restarts,
        places=told.places,
        checkpoints=tuple(checkpoints_of(run)),
        troubles=told.troubles,
        sign_s=max([t for t in (told.sign_s, _last_step_s(steps)) if t is not None], default=None),
        missing=tuple(missing),
        sources=(*sources, *(str(name) for name, content in documents.items() if content is not None)),
    )


def _last_step_s(steps: Steps | None) -> float | None:
    return float(steps.wall_time_s[-1]) if steps is not None and len(steps) else None


def _steps(run: RunDirectory, missing: list[str]) -> tuple[Steps | None, tuple, list[str]]:
    """Steps and evaluations, and the file they are from: metrics.h5, or else the event log of rank 0."""
    log = event_file(run.events, 0)
    try:
        metrics = read_metrics(run.metrics)
    except UserError as error:
        if not log.exists():
            if run.metrics.exists():
                raise
            missing.append("no metrics.h5 and no event log of rank 0: nothing was recorded of any step")
            return None, (), []
        missing.append(f"{clean(error.message)}: the steps are taken from {log.name}")
        steps, held_out = _from_log(log)
        source = log
    else:
        columns = {name: metrics[f"{group}/{name}"] for name, group in _PATHS.items()}
        steps, source = _as_steps(columns), run.metrics
        held_out = _evaluations(metrics)
    if not len(steps):
        missing.append("no step was recorded")
        return None, held_out, [str(source)]
    return steps, held_out, [str(source)]


def _evaluations(metrics: Mapping[str, np.ndarray]) -> tuple[tuple[int, float, float], ...]:
    names = ("step", "held_out_loss", "held_out_accuracy")
    return tuple(zip(*(metrics[f"evaluation/{name}"].tolist() for name in names), strict=True))


def _as_steps(columns: dict[str, np.ndarray]) -> Steps:
    return Steps(batch=batches(columns["step"], columns.pop("samples")), **columns)


def _from_log(log: Path) -> tuple[Steps, tuple[tuple[int, float, float], ...]]:
    """The steps as the run ended up with: one that was trained again counts as the last time, later ones are gone."""
    steps: dict[int, StepRecord] = {}
    evaluations: dict[int, tuple[int, float, float]] = {}
    for record in read_records(log):
        if isinstance(record, StepRecord):
            for later in [step for step in steps if step > record.step] if record.step in steps else ():
                del steps[later]
            steps[record.step] = record
        elif isinstance(record, EvaluationRecord):
            evaluations[record.step] = (record.step, record.held_out_loss, record.held_out_accuracy)
    rows = [steps[step] for step in sorted(steps)]
    width = max((row.ranks for row in rows), default=0)

    def column(name: str) -> np.ndarray:
        if not name.startswith("rank_"):
            return np.array([getattr(row, name) for row in rows])
        values = np.full((len(rows), width), np.nan)
        for target, row in zip(values, rows, strict=True):
            target[: len(getattr(row, name))] = getattr(row, name)
        return values

    return _as_steps({name: column(name) for name in _PATHS}), tuple(evaluations[s] for s in sorted(evaluations))


def _document(path: Path, missing: list[str], absent: str = "") -> dict[str, Any] | None:
    """A JSON object; None where it is absent (`absent` says what that means) or damaged, which is told."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        missing.append(f"{path.name} is damaged and counts as absent: it holds no object")
    except FileNotFoundError:
        if absent:
            missing.append(f"no {path.name}: {absent}")
    except (OSError, ValueError) as error:
        missing.append(f"{path.name} is damaged and counts as absent: {clean(error)}")
    return None


def _settings(run: RunDirectory, missing: list[str]) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing.append("no config.yaml: what was trained is not known")
        return {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        missing.append(f"config.yaml is damaged: {clean(error).splitlines()[0]}")
        return {}
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        missing.append("config.yaml is damaged: it holds no sections")
        return {}
    return content


def checkpoints_of(run: RunDirectory) -> list[tuple[int, float]]:
    """Step and time of the checkpoints on disk, oldest step first; unverified."""
    found = []
    for path in run.checkpoints.glob("step-*"):
        digits = path.name.removeprefix("step-")
        try:
            if digits.isdigit():
                found.append((int(digits), (path / "manifest.json").stat().st_mtime))
        except OSError:
            continue
    return sorted(found)
