"""The event log: append-only ECS JSON lines, one file a rank, from which the metrics could be built again.

Every line is handed to the operating system at once, so a killed process loses at most the line it was writing.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ecs_logging
import numpy as np

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.record import EvaluationRecord, Record, SampleRecord, StepRecord
from ryzen_mpi.metrics.sink import to_stderr

# Found on every line by the formatter, and of no use to a reader of these events.
_EXCLUDED = ("log.origin", "log.original", "process.name", "process.thread")
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
        self._report = report
        self._lost = 0
        self._handler = _open(self.path)
        rank = {"rank": str(writer)} if isinstance(writer, int) else {}
        labels = rank | {name: str(value) for name, value in (labels or {}).items()}
        extra = {"service.name": "ryzen_mpi", "labels": labels}
        self._handler.setFormatter(_Formatter(extra=extra, exclude_fields=_EXCLUDED))
        # Not from getLogger(): loggers made there are global, and two runs in one process would share them.
        self._logger = logging.Logger("ryzen_mpi.events")  # noqa: LOG001
        self._logger.addHandler(self._handler)

    def event(self, action: str, message: str, level: str = "info", dataset: str = "run", **figures: object) -> None:
        """Appends one line. Never raises on a full disk or the like: reported once, and the loss told in the next line.

        Args:
            action: what happened, a stable word ("resume", "checkpoint"); becomes event.action.
            message: the same for people.
            level: "debug", "info", "warning", "error" or "critical".
            dataset: which log of the system it belongs to; becomes event.dataset "ryzen_mpi.<dataset>".
            figures: numbers, texts or sequences of them, kept under `ryzen.`; NumPy's and non-finite ones too.
        """
        try:
            self._append(action, message, level, dataset, figures)
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                self._report(f"event log {self.path}: lines are being lost ({error.strerror or error})")

    def write(self, record: Record) -> None:
        """Appends `record` as a line of action "step", "evaluation" or "sample", all its figures. Raises OSError."""
        names = [field.name for field in dataclasses.fields(record)]
        figures = {name: getattr(record, name) for name in names}
        if isinstance(record, StepRecord):
            message = f"step {record.step}: loss {record.loss:.4f}, {record.step_s:.3f} s"
            self._append("step", message, "info", "metrics", figures)
        elif isinstance(record, SampleRecord):
            # flat, so that figures that are no numbers are told as everywhere
            told = {"step": record.step, "wall_time_s": record.wall_time_s} | record.values | record.rank_values
            self._append("sample", f"after step {record.step}", "info", "metrics", told)
        else:
            message = f"step {record.step}: held-out loss {record.held_out_loss:.4f}"
            self._append("evaluation", message, "info", "metrics", figures)

    def flush(self) -> None:
        """Has nothing to flush: every line is with the operating system when its call returns."""

    def close(self) -> None:
        """Puts the file on the disk and closes it; harmless when repeated."""
        self._handler.close()

    def _append(self, action: str, message: str, level: str, dataset: str, figures: Mapping[str, object]) -> None:
        lost = {"lines_lost_before": self._lost} if self._lost else {}
        extra = {"event": {"action": action, "dataset": f"ryzen_mpi.{dataset}"}, "ryzen": _figures({**figures, **lost})}
        number = getattr(logging, level.upper())
        record = self._logger.makeRecord(self._logger.name, number, "", 0, message, (), None, extra=extra)
        self._logger.handle(record)
        self._lost = 0


class _Formatter(ecs_logging.StdlibFormatter):
    """Adds the figures to a line as they are: taken apart and merged with the rest they cost a quarter of its time."""

    def format_to_ecs(self, record: logging.LogRecord) -> dict[str, Any]:
        """The line as nested dictionaries."""
        figures = record.__dict__.pop("ryzen")
        return super().format_to_ecs(record) | ({"ryzen": figures} if figures else {})


def _open(path: Path) -> _LineHandler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _LineHandler(path)
    except OSError as error:
        hint = "check the rights of the run directory and the space on its disk"
        raise UserError(f"event log {path} cannot be opened: {error.strerror or error}", hint) from error


class _LineHandler(logging.Handler):
    """Writes each line with one system call, so that lines of a killed or crowded writer are whole or last."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        # A writer killed within a line left no newline: what follows must not be joined to the torn line.
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def emit(self, record: logging.LogRecord) -> None:
        """Appends the record. Raises OSError, where logging's own handlers print a traceback a line and go on."""
        if self._file < 0:
            raise OSError(errno.EBADF, "closed")
        line = b"\n" * self._torn + self.format(record).encode() + b"\n"
        written = os.write(self._file, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Also called by logging at interpreter exit."""
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                os.fsync(file)
            finally:
                os.close(file)
        super().close()


def _figures(values: Mapping[str, object]) -> dict[str, object]:
    """`values` as JSON has them. NaN and infinity, which it has not, are listed in `not_finite` as "loss=nan"."""
    plain = {name: _plain(value) for name, value in values.items() if value is not None}
    odd = [name for name, value in plain.items() if isinstance(value, float) and not math.isfinite(value)]
    if odd:
        plain["not_finite"] = [f"{name}={plain.pop(name)}" for name in odd]
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [None if isinstance(item, float) and not math.isfinite(item) else _plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, dict, type(None))) else str(value)


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
