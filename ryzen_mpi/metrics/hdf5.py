"""The sink that keeps a run's metrics in metrics.h5. Rank 0 owns it; every function is local."""

from __future__ import annotations

import contextlib
import io
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.events import read_records
from ryzen_mpi.metrics.hdf5_file import SafeFile, read_whole
from ryzen_mpi.metrics.hdf5_table import FORMAT, TABLES, Table, commit, create_tables, read_tables
from ryzen_mpi.metrics.record import EvaluationRecord, Record, SampleRecord, StepRecord
from ryzen_mpi.metrics.sink import to_stderr

BATCH_ROWS = 20
BATCH_S = 10.0

# What h5py raises for a file whose inside is damaged, beside OSError: a missing dataset, a wrong type, a lost object.
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)
_TABLE_OF = {StepRecord: "training", EvaluationRecord: "evaluation", SampleRecord: "samples"}


class Hdf5Sink:
    """Appends records to `path` in batches of 20 rows or 10 s, each flushed, so that a kill costs at most one batch.

    Opening puts the file into the state it had after step `resume_step`: later rows are cut off; rows that are
    missing up to there (a batch lost with a killed writer, or all of a damaged file, which is set aside as
    `metrics.h5.damaged-<n>`, as is one of other layers or another format) are taken from `events`.

    Args:
        path: the file; made where it is missing.
        world_size: ranks of the run now; rank arrays grow to the largest the file has seen.
        layer_names: what `gradient_variance` has a value for, in its order.
        resume_step: the step the training goes on from; 0 at the start of a run.
        run: attributes of the file that say what the run is (run id, profile, ...).
        events: rank 0's event log, or None.
        report: told in a sentence when a damaged file was set aside.

    Raises UserError where the file may not be written or is open in another process.
    """

    def __init__(
        self,
        path: Path,
        world_size: int,
        layer_names: Sequence[str],
        resume_step: int = 0,
        *,
        run: Mapping[str, str | int | float] | None = None,
        events: Path | None = None,
        report: Callable[[str], None] = to_stderr,
    ) -> None:
        self.path = Path(path)
        self._waiting: list[Record] = []
        try:
            self._disk = _prepared(self.path, world_size, layer_names, report)
            self._file = h5py.File(self._disk, "r+")
            # Also for a sink that nobody closes: HDF5 that closes its file after the interpreter's end is a SIGSEGV.
            self._release = weakref.finalize(self, _released, self._file, self._disk)
            try:
                self._begin(resume_step, run or {}, events)
            except BaseException:
                self._release()
                raise
        except OSError as error:
            raise _refusal(self.path, error) from error

    def _begin(self, resume_step: int, run: Mapping[str, str | int | float], events: Path | None) -> None:
        """The file as it was after `resume_step`, settled."""
        self._file.attrs.update(run)
        self._cut(resume_step)
        if events is not None and self._tables["training"].last_step < resume_step:
            self._fill(events, resume_step)
        self._commit()
        self._newest = self._last_steps()

    def write(self, record: Record) -> None:
        """Takes a record; writes the batch when it is due. Raises OSError and the like where the disk refuses.

        Of several samples or evaluations after one step the first is kept. Raises ValueError for a step that was
        written already: who goes back opens the file anew.
        """
        if record.step <= self._newest.get(type(record), 0):
            if isinstance(record, StepRecord):
                raise ValueError(f"step {record.step} after step {self._newest[StepRecord]}")
            return
        self._newest[type(record)] = record.step
        self._waiting.append(record)
        if len(self._waiting) >= BATCH_ROWS or time.monotonic() - self._flushed_at >= BATCH_S:
            self.flush()

    def flush(self) -> None:
        """Has every record so far in the file, and the file readable by others, when it returns."""
        waiting, self._waiting = self._waiting, []
        steps = [record for record in waiting if isinstance(record, StepRecord)]
        self._tables["training"].append(steps)
        self._tables["gradients"].append([record for record in steps if record.gradient_variance is not None])
        self._tables["evaluation"].append([record for record in waiting if isinstance(record, EvaluationRecord)])
        self._tables["samples"].append([record for record in waiting if isinstance(record, SampleRecord)])
        self._commit()

    def close(self) -> None:
        """Flushes and closes; harmless when repeated. A file that cannot be flushed is closed as it is."""
        if self._file:
            try:
                self.flush()
            finally:
                self._file.close()
                with contextlib.suppress(OSError):  # a full disk: the file stays as it was settled last
                    self._disk.settle()
                self._release()

    def _cut(self, step: int) -> None:
        """The tables as they were after `step`."""
        self._tables = {name: Table(self._file, name, step) for name in TABLES}
        self._commit()  # before the rows go: there must never be fewer than are said to be
        for table in self._tables.values():
            table.trim()

    def _last_steps(self) -> dict[type, int]:
        return {kind: self._tables[name].last_step for kind, name in _TABLE_OF.items()}

    def _commit(self) -> None:
        commit(self._file, self._tables.values())
        self._file.flush()
        self._disk.settle()
        self._flushed_at = time.monotonic()

    def _fill(self, events: Path, resume_step: int) -> None:
        """Appends the records after the last row of each table up to `resume_step`."""
        if not events.exists():
            return
        by_kind: dict[type, dict[int, Record]] = {StepRecord: {}, EvaluationRecord: {}, SampleRecord: {}}
        newest = 0
        for record in read_records(events):
            if record.step > resume_step:
                continue
            if isinstance(record, StepRecord):
                if record.step <= newest:  # trained again after a rollback: what was told of later steps is undone
                    by_kind = {kind: _until(rows, record.step) for kind, rows in by_kind.items()}
                newest = record.step
            by_kind[type(record)][record.step] = record
        steps, evaluations, samples = ([rows[step] for step in sorted(rows)] for rows in by_kind.values())
        varied = [record for record in steps if record.gradient_variance is not None]
        for table, records in zip(self._tables.values(), (steps, varied, evaluations, samples), strict=True):
            table.append([record for record in records if record.step > table.last_step])


def _released(file: h5py.File, disk: SafeFile) -> None:
    """Closes both as they are, without what is not settled; harmless when repeated."""
    with contextlib.suppress(Exception):
        file.close()
    disk.close()


def _until(rows: dict[int, Record], step: int) -> dict[int, Record]:
    return {at: record for at, record in rows.items() if at <= step}


def _prepared(path: Path, world_size: int, layers: Sequence[str], report: Callable[[str], None]) -> SafeFile:
    """A whole file at `path`, locked: the one that is there, or a new one where that is missing or damaged."""
    if path.exists():
        disk = SafeFile(path)  # first, for the lock: a file that another run writes may look damaged
        try:
            _verify(path, layers)
            return disk
        except _DAMAGE as error:
            disk.close()
            aside = _set_aside(path)
            report(f"{path} cannot be continued ({error}): kept as {aside.name}, built again from the event log")
    _make(path, world_size, layers)
    return SafeFile(path)


def _verify(path: Path, layers: Sequence[str]) -> None:
    """Raises one of _DAMAGE where the file cannot be continued.

    Reads a copy: HDF5 writes into a file that it opens for writing, and a damaged one must stay as it is.
    """
    with h5py.File(io.BytesIO(read_whole(path)), "r") as file:
        if file.attrs["format"] != FORMAT:
            raise ValueError(f"it has format {file.attrs['format']}, this version of ryzen_mpi continues {FORMAT}")
        if read_tables(file)["gradients/layers"].tolist() != list(layers):
            raise ValueError("it has other layers")


def _make(path: Path, world_size: int, layers: Sequence[str]) -> None:
    """Makes the file in memory and renames it into place: under its name it is whole from the first moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    # Not a newer libver: its checksummed headers made 40 of 40 files of killed writers unreadable.
    image = io.BytesIO()
    with h5py.File(image, "w", libver="earliest") as file:
        create_tables(file, world_size, layers)
    partial.write_bytes(image.getvalue())
    partial.replace(path)


def _set_aside(path: Path) -> Path:
    """Renames a damaged file to the first free `metrics.h5.damaged-<n>`."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return path.rename(aside)


def _refusal(path: Path, error: OSError) -> UserError:
    if isinstance(error, BlockingIOError):
        return UserError(f"{path} is being written by another process", "end the other run of this directory first")
    hint = "check the rights of the run directory and the space on its disk"
    return UserError(f"{path} cannot be written: {error.strerror or error}", hint)
