"""Reading metrics.h5, while a run writes it or later. All functions are local."""

from __future__ import annotations

import fcntl
import io
import time
from pathlib import Path

import h5py
import numpy as np

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.hdf5_file import read_whole
from ryzen_mpi.metrics.hdf5_table import read_tables

Metrics = dict[str, np.ndarray]

_ATTEMPTS, _PAUSE_S = 5, 0.1
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError)


def metrics_file(run: Path) -> Path:
    """The metrics.h5 of a run directory; a path to a file is returned as it is."""
    run = Path(run)
    return run / "metrics.h5" if run.is_dir() else run


def read_metrics(path: Path) -> Metrics:
    """Every table's datasets by their paths in the file ("training/loss"), and the names "gradients/layers".

    Returns arrays of shape (rows,), for rank arrays (rows, ranks), for layer arrays (rows, layers); within training,
    communication and hardware all of equal length, so also within gradients, evaluation, and samples.
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
