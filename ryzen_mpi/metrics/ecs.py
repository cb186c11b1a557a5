"""ECS JSON lines in a file: what the event log and the streams of logs/ share.

Every line is handed to the operating system at once, so a killed process loses at most the line it was writing.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ecs_logging
import numpy as np

# Found on every line by the formatter, and of no use to a reader of these lines.
_EXCLUDED = ("log.origin", "log.original", "process.name", "process.thread")


class EcsFile:
    """Appends ECS lines to a file. Local; nothing is opened before the first line, or `open`.

    Args:
        path: the file; its folder is made where it is missing.
        logger: log.logger of every line.
        labels: fixed texts of every line, kept under `labels`.
        report: told once when lines cannot be written.
        fields: more fixed fields of every line, by their dotted names.
        most_bytes: where a line would make the file larger, it becomes `path`.1, and `path`.1 becomes .2, ...
        kept: files there are at most then, `path` among them.
    """

    def __init__(
        self,
        path: Path,
        logger: str,
        labels: Mapping[str, str],
        report: Callable[[str], None],
        *,
        fields: Mapping[str, object] | None = None,
        most_bytes: float = math.inf,
        kept: int = 4,
    ) -> None:
        self.path = Path(path)
        self._report = report
        self._lost = 0
        self._told = False
        self._handler = _LineHandler(self.path, most_bytes, kept)
        extra = {"service.name": "ryzen_mpi", "labels": dict(labels), **(fields or {})}
        self._handler.setFormatter(_Formatter(extra=extra, exclude_fields=_EXCLUDED))
        # Not from getLogger(): loggers made there are global, and two runs in one process would share them.
        self._logger = logging.Logger(logger)  # noqa: LOG001
        self._logger.addHandler(self._handler)

    def open(self) -> None:
        """Opens the file now. Raises OSError."""
        self._handler.open()

    def append(self, event: Mapping[str, object], message: str, level: str, figures: Mapping[str, object]) -> None:
        """Appends a line. Raises OSError where that cannot be written.

        Args:
            event: the fields below event.
            message: the line for people.
            level: "debug", "info", "warning", "error" or "critical".
            figures: numbers, texts or sequences of them, kept under `ryzen.`; NumPy's and non-finite ones too.
        """
        lost = {"lines_lost_before": self._lost} if self._lost else {}
        extra = {"event": dict(event), "ryzen": plain_figures({**figures, **lost})}
        number = getattr(logging, level.upper())
        record = self._logger.makeRecord(self._logger.name, number, "", 0, message, (), None, extra=extra)
        self._logger.handle(record)
        self._lost = 0

    def attempt(self, event: Mapping[str, object], message: str, level: str, figures: Mapping[str, object]) -> None:
        """As `append`, but a full disk or the like is reported once, and the next line tells how many were lost."""
        try:
            self.append(event, message, level, figures)
        except OSError as error:
            self._lost += 1
            if not self._told:
                self._told = True
                self._report(f"{self.path}: lines are being lost ({error.strerror or error})")

    def close(self) -> None:
        """Puts the file on the disk and closes it; harmless when repeated."""
        self._handler.close()


class _Formatter(ecs_logging.StdlibFormatter):
    """Adds the figures to a line as they are: taken apart and merged with the rest they cost a quarter of its time."""

    def format_to_ecs(self, record: logging.LogRecord) -> dict[str, Any]:
        """The line as nested dictionaries."""
        figures = record.__dict__.pop("ryzen")
        return super().format_to_ecs(record) | ({"ryzen": figures} if figures else {})


class _LineHandler(logging.Handler):
    """Writes each line with one system call, so that lines of a killed or crowded writer are whole or last."""

    def __init__(self, path: Path, most_bytes: float, kept: int) -> None:
        super().__init__()
        self._path, self._most_bytes, self._kept = path, most_bytes, kept
        self._file = -1
        self._closed = False
        self._torn = False

    def open(self) -> None:
        """Opens the file where it is not. Raises OSError."""
        if self._closed:
            raise OSError(errno.EBADF, "closed")
        if self._file >= 0:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        # A writer killed within a line left no newline: what follows must not be joined to the torn line.
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def emit(self, record: logging.LogRecord) -> None:
        """Appends the record. Raises OSError, where logging's own handlers print a traceback a line and go on."""
        self.open()
        line = self.format(record).encode() + b"\n"
        if self._most_bytes < math.inf and 0 < (size := os.fstat(self._file).st_size):
            if size + len(line) > self._most_bytes:
                self._rotate()
        line = b"\n" * self._torn + line
        written = os.write(self._file, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _rotate(self) -> None:
        """The file becomes the first of the old ones, the oldest goes, and a new file is opened."""
        os.close(self._file)
        self._file = -1
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{number}") for number in range(1, self._kept))]
        for younger, older in reversed(list(zip(names, names[1:], strict=False))):
            with contextlib.suppress(FileNotFoundError):
                younger.replace(older)
        self.open()

    def close(self) -> None:
        """Also called by logging at interpreter exit."""
        self._closed = True
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                os.fsync(file)
            finally:
                os.close(file)
        super().close()


def plain_figures(values: Mapping[str, object]) -> dict[str, object]:
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
