"""The event log: append-only ECS JSON lines, one file a rank, from which the metrics could be built again."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.ecs import EcsFile
from ryzen_mpi.metrics.record import EvaluationRecord, Record, SampleRecord, StepRecord
from ryzen_mpi.metrics.sink import to_stderr

_RECORDS = {"step": StepRecord, "evaluation": EvaluationRecord, "sample": SampleRecord}
_RECORDS_DATASET = "ryzen_mpi.metrics"
_NOT_VALUES = ("step", "wall_time_s", "not_finite", "lines_lost_before")


def event_file(directory: Path, writer: int | str) -> Path:
    """The event log of a rank, or of a process with another name, in a run's `events` directory."""
    return Path(directory) / (f"rank-{writer:04d}.jsonl" if isinstance(writer, int) else f"{writer}.jsonl")


class EventLog:
    """Appends events to `directory/rank-NNNN.jsonl`. Local; every process has its own. A Sink for records on rank 0.

    Args:
        directory: the run's `events` directory; made where it is missing.
        writer: this rank, or the name of a process that is none ("supervisor"); names the file.
        labels: fixed fields of every line (jobid, run, node), kept under `labels` beside the rank, if any.
        report: told once when lines cannot be written.

    Raises UserError where the file cannot be opened.
    """

    def __init__(
        self,
        directory: Path,
        writer: int | str,
        labels: Mapping[str, object] | None = None,
        report: Callable[[str], None] = to_stderr,
    ) -> None:
        self.path = event_file(directory, writer)
        rank = {"rank": str(writer)} if isinstance(writer, int) else {}
        self.labels = labels = rank | {name: str(value) for name, value in (labels or {}).items()}
        self._file = EcsFile(self.path, "ryzen_mpi.events", labels, report)
        try:
            self._file.open()
        except OSError as error:
            hint = "check the rights of the run directory and the space on its disk"
            raise UserError(f"event log {self.path} cannot be opened: {error.strerror or error}", hint) from error

    def event(self, action: str, message: str, level: str = "info", dataset: str = "run", **figures: object) -> None:
        """Appends one line. Never raises on a full disk or the like: reported once, and the loss told in the next line.

        Args:
            action: what happened, a stable word ("resume", "checkpoint"); becomes event.action.
            message: the same for people.
            level: "debug", "info", "warning", "error" or "critical".
            dataset: which log of the system it belongs to; becomes event.dataset "ryzen_mpi.<dataset>".
            figures: numbers, texts or sequences of them, kept under `ryzen.`; NumPy's and non-finite ones too.
        """
        self._file.attempt(_about(action, dataset), message, level, figures)

    def write(self, record: Record) -> None:
        """Appends `record` as a line of action "step", "evaluation" or "sample", all its figures. Raises OSError."""
        names = [field.name for field in dataclasses.fields(record)]
        figures = {name: getattr(record, name) for name in names}
        if isinstance(record, StepRecord):
            message = f"step {record.step}: loss {record.loss:.4f}, {record.step_s:.3f} s"
            self._append("step", message, figures)
        elif isinstance(record, SampleRecord):
            # flat, so that figures that are no numbers are told as everywhere
            told = {"step": record.step, "wall_time_s": record.wall_time_s} | record.values | record.rank_values
            self._append("sample", f"after step {record.step}", told)
        else:
            message = f"step {record.step}: held-out loss {record.held_out_loss:.4f}"
            self._append("evaluation", message, figures)

    def flush(self) -> None:
        """Has nothing to flush: every line is with the operating system when its call returns."""

    def close(self) -> None:
        """Puts the file on the disk and closes it; harmless when repeated."""
        self._file.close()

    def _append(self, action: str, message: str, figures: Mapping[str, object]) -> None:
        self._file.append(_about(action, "metrics"), message, "info", figures)


def _about(action: str, dataset: str) -> dict[str, str]:
    return {"action": action, "dataset": f"ryzen_mpi.{dataset}"}


# -- reading ----------------------------------------------------------------------------------------------------------


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of one file in the order they were written. Lines torn by a killed writer are passed over.

    Raises UserError where the file cannot be opened.
    """
    try:
        with Path(path).open("rb") as file:
            for line in file:
                event = _parsed(line)
                if isinstance(event, dict):
                    yield event
    except OSError as error:
        hint = "give one of a run directory's events/rank-*.jsonl"
        raise UserError(f"event log {path} cannot be read: {error.strerror}", hint) from error


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def read_records(path: Path) -> Iterator[Record]:
    """The records that an EventLog was given, rank arrays and all; steps that were trained again come again."""
    for event in read_events(path):
        about = event.get("event", {})
        kind = _RECORDS.get(about.get("action")) if about.get("dataset") == _RECORDS_DATASET else None
        if kind is not None:
            yield _record(kind, event["ryzen"])


def _record(kind: type[Record], figures: dict[str, Any]) -> Record:
    odd = dict(text.split("=") for text in figures.get("not_finite", ()))
    if kind is SampleRecord:
        values = {name: _restored(value) for name, value in figures.items() if name not in _NOT_VALUES}
        values |= {name: float(text) for name, text in odd.items()}
        ranked = {name: values.pop(name) for name in list(values) if name.startswith("rank_")}
        return SampleRecord(figures["step"], figures["wall_time_s"], values, ranked)
    told = [field.name for field in dataclasses.fields(kind) if field.name in odd or field.name in figures]
    return kind(**{name: _restored(float(odd[name]) if name in odd else figures[name]) for name in told})


def _restored(value: Any) -> Any:
    return tuple(math.nan if item is None else item for item in value) if isinstance(value, list) else value
