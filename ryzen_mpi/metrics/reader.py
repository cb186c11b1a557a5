"""Reading metrics.h5, while a run writes it or later, and showing it as a table or CSV. All functions are local."""

from __future__ import annotations

import fcntl
import io
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from rich.table import Table as RichTable

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.hdf5_file import read_whole
from ryzen_mpi.metrics.hdf5_table import read_tables
from ryzen_mpi.metrics.signals import SIGNALS, of_kind

Metrics = dict[str, np.ndarray]

_ATTEMPTS, _PAUSE_S = 5, 0.1
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError)
_SHOWN = {
    "step": "d",
    "loss": ".4f",
    "accuracy": ".2%",
    "learning_rate": ".3g",
    "gradient_norm": ".3g",
    "samples": "d",
    "tokens": "d",
    "step_s": ".4g",
    "communication_s": ".4g",
    "ranks": "d",
    "skipped": "d",
}


def metrics_file(run: Path) -> Path:
    """The metrics.h5 of a run directory; a path to a file is returned as it is."""
    run = Path(run)
    return run / "metrics.h5" if run.is_dir() else run


def read_metrics(path: Path) -> Metrics:
    """Every table's datasets by their paths in the file ("training/loss"), and the names "gradients/layers".

    Returns arrays of shape (rows,), for rank arrays (rows, ranks), for layer arrays (rows, layers); within training,
    communication and hardware all of equal length, so also within gradients and within evaluation.
    Raises UserError where the file is missing, may not be read, is damaged, of a newer format, or never at rest.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            # A copy, read without a lock: a reader must neither be refused by the run that writes, nor hinder its
            # start, and one in the process that writes could not open the file a second time.
            with h5py.File(io.BytesIO(read_whole(Path(path))), "r") as file:
                return read_tables(file)
        except FileNotFoundError as error:
            raise UserError(f"no metrics at {path}", "give the directory of a run, or its metrics.h5") from error
        except PermissionError as error:
            raise UserError(f"metrics {path} may not be read", "check the rights of the run directory") from error
        except _DAMAGE as error:
            if not _is_being_written(path):
                hint = "the run's events/rank-0000.jsonl holds the same figures; resuming the run builds the file again"
                raise UserError(f"{path} is not a file of metrics, or damaged ({error})", hint) from error
    raise UserError(f"{path} is being written and could not be read in between", "try again in a moment")


def _is_being_written(path: Path) -> bool:
    """Whether a writer has the file open; HDF5 takes a lock of the flock kind."""
    with Path(path).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
    return False


def table(metrics: Metrics, last: int | None = None) -> RichTable:
    """The steps as a table for people, a row a step; of the `last` steps only where given. NaN shows as a dash."""
    shown = RichTable(caption=_held_out(metrics))
    for name in _SHOWN:
        unit = SIGNALS[name].unit
        shown.add_column(name if unit == "1" else f"{name}\n{unit}", justify="right")
    columns = [metrics[f"{SIGNALS[name].group}/{name}"][_tail(last)].tolist() for name in _SHOWN]
    for row in zip(*columns, strict=True):
        shown.add_row(*map(_cell, row, _SHOWN.values()))
    return shown


def csv(metrics: Metrics, last: int | None = None) -> Iterator[str]:
    """The steps as lines of CSV, the header first; of the `last` steps only where given.

    A column a signal; for rank arrays a column a rank ("rank_step_s.0"), for the gradients a column a layer
    ("gradient_variance.blocks.0"). Every float is written so that it reads back equal; NaN, and what was not taken at a
    step, is "nan".
    """
    columns: dict[str, list] = {}
    for signal in of_kind("step", "rank"):
        array = metrics[f"{signal.group}/{signal.name}"][_tail(last)]
        if array.ndim == 1:
            columns[signal.name] = array.tolist()
        else:
            columns |= {f"{signal.name}.{rank}": values.tolist() for rank, values in enumerate(array.T)}
    steps = columns["step"]
    for signal in of_kind("layer", "evaluation"):
        taken = metrics[f"{signal.group}/step"].tolist()
        values = metrics[f"{signal.group}/{signal.name}"]
        names = (
            [signal.name] if values.ndim == 1 else [f"{signal.name}.{layer}" for layer in metrics["gradients/layers"]]
        )
        for name, column in zip(names, values.reshape(len(taken), len(names)).T, strict=True):
            at = dict(zip(taken, column.tolist(), strict=True))
            columns[name] = [at.get(step, float("nan")) for step in steps]
    yield ",".join(columns)
    for row in zip(*columns.values(), strict=True):
        yield ",".join(map(repr, row))


def _tail(last: int | None) -> slice:
    return slice(None) if last is None else slice(-last, None) if last > 0 else slice(0, 0)


def _cell(value: float, form: str) -> str:
    return "-" if value != value else format(value, form)


def _held_out(metrics: Metrics) -> str | None:
    """The newest evaluation in a sentence."""
    if not len(metrics["evaluation/step"]):
        return None
    step, loss = metrics["evaluation/step"][-1], metrics["evaluation/held_out_loss"][-1]
    accuracy = metrics["evaluation/held_out_accuracy"][-1]
    return f"held-out data after step {step}: loss {loss:.4f} nat/token, accuracy {accuracy:.2%}"
