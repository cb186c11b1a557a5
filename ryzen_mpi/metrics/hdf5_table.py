"""The inside of metrics.h5: tables, that is datasets of equal length with a row a record, grown in batches.

A batch is written in two moves: the values, flushed, then the number of rows in `committed_rows`, flushed. A writer
killed between leaves datasets whose last rows may be fill values (2 of 300 files of killed writers without this).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import h5py
import numpy as np

from ryzen_mpi.metrics.record import Record
from ryzen_mpi.metrics.signals import RANKED, SIGNALS, Signal, of_kind

FORMAT = 3
OLD_FORMAT = 2
"""Had neither samples nor the columns that came with them: it can be read, not continued."""
ABOUT = {
    "description": "Metrics of one training run of ryzen_mpi. Every dataset has the attributes unit and description.",
    "rows": "Row i of every dataset in training, communication and hardware is the step training/step[i]; row i of "
    "gradients, evaluation and samples is the step given by the group's own dataset step. Rows beyond committed_rows "
    "are the unfinished last batch of a killed or running writer: leave them out. Datasets of kind sample and "
    "rank_sample, in whatever group, have the rows of samples.",
    "rank_arrays": "Datasets named rank_* have one column a rank. They are as wide as the largest number of ranks the "
    "run ever had; training/ranks tells how many took part in a step, and columns from there on are NaN.",
}
TABLES: dict[str, dict[str, Signal]] = {
    "training": {f"{signal.group}/{signal.name}": signal for signal in of_kind("step", "rank")},
    "gradients": {"gradients/step": SIGNALS["step"]}
    | {f"{signal.group}/{signal.name}": signal for signal in of_kind("layer")},
    "evaluation": {"evaluation/step": SIGNALS["step"]}
    | {f"{signal.group}/{signal.name}": signal for signal in of_kind("evaluation")},
    "samples": {f"samples/{name}": SIGNALS[name] for name in ("step", "wall_time_s")}
    | {f"{signal.group}/{signal.name}": signal for signal in of_kind("sample", "rank_sample")},
}
COMMITTED = "committed_rows"
# A new chunk changes HDF5's index of chunks, the one change that a kill can leave half done: they are large and rare.
_CHUNK_ROWS, _CHUNK_VALUES = 1024, 16384
# A flush writes whole chunks. Samples come one at a time, into 45 datasets: with large chunks that is 0.9 MiB each.
_SAMPLE_ROWS = 128


class Table:
    """The datasets of one entry of TABLES in an open file, as of step `last_step`. Local; raises what h5py raises.

    Attributes:
        rows: rows up to that step, and those appended since; committed by `commit`.
        last_step: the step of the last of them; 0 where there is none.
    """

    def __init__(self, file: h5py.File, name: str, last_step: int) -> None:
        self._columns = [(signal, file[path]) for path, signal in TABLES[name].items()]
        steps = file[f"{name}/step"][: file[COMMITTED][list(TABLES).index(name)]]
        self.rows = int(np.searchsorted(steps, last_step, side="right"))
        self.last_step = int(steps[self.rows - 1]) if self.rows else 0

    def trim(self) -> None:
        """Removes what is beyond `rows`: later steps, and what a killed writer left; after `commit` and a flush."""
        for _, dataset in self._columns:
            dataset.resize(self.rows, axis=0)

    def append(self, records: Sequence[Record]) -> None:
        """Adds a row a record."""
        if not records:
            return
        for signal, dataset in self._columns:
            values = [_value(record, signal) for record in records]
            ranked = signal.kind in (*RANKED, "layer")
            _append(dataset, self.rows, _padded(values) if ranked else np.array(values, signal.dtype))
        self.rows += len(records)
        self.last_step = records[-1].step


def _value(record: Record, signal: Signal) -> float | Sequence[float]:
    sampled = signal.kind in ("sample", "rank_sample")
    return record.value(signal.name) if sampled else getattr(record, signal.name)


def _padded(rows: list[Sequence[float]]) -> np.ndarray:
    """An array of shape (rows, longest row), NaN where a row is shorter."""
    array = np.full((len(rows), max(map(len, rows))), np.nan)
    for target, row in zip(array, rows, strict=True):
        target[: len(row)] = row
    return array


def _append(dataset: h5py.Dataset, start: int, values: np.ndarray) -> None:
    """Writes `values` as the last rows, from row `start` on; a wider array widens the dataset, with NaN.

    Through h5py's low level: with `resize` and `dataset[start:] = values` a batch takes 2.3 ms instead of 1.4.
    """
    extent = (start + len(values), *map(max, values.shape[1:], dataset.id.shape[1:]))
    dataset.id.set_extent(extent)
    if values.size:
        space = dataset.id.get_space()
        space.select_hyperslab((start,) + (0,) * (values.ndim - 1), values.shape)
        dataset.id.write(h5py.h5s.create_simple(values.shape), space, values)


def commit(file: h5py.File, tables: Iterable[Table]) -> None:
    """Declares the rows of all `tables`, given in the order of TABLES, good; the file was flushed before.

    One write of a few bytes, so that a kill finds it done or not done.
    """
    file[COMMITTED][...] = [table.rows for table in tables]


def create_tables(file: h5py.File, ranks: int, layers: Sequence[str]) -> None:
    """Makes every dataset in an empty file, with no rows; `ranks` and `layers` give the widths of the arrays."""
    for name, text in ABOUT.items():
        file.attrs[name] = text
    file.attrs["format"] = FORMAT
    widths = dict.fromkeys(RANKED, ranks) | {"layer": len(layers)}
    for name, columns in TABLES.items():
        rows = _SAMPLE_ROWS if name == "samples" else _CHUNK_ROWS
        for path, signal in columns.items():
            _create(file, path, signal, widths.get(signal.kind), rows)
    committed = file.create_dataset(COMMITTED, data=np.zeros(len(TABLES), np.int64))
    committed.attrs["unit"] = "1"
    committed.attrs["description"] = "finished rows of the tables " + ", ".join(TABLES)
    file["gradients/gradient_variance"].attrs.create("layers", list(layers), dtype=h5py.string_dtype())


def _create(file: h5py.File, path: str, signal: Signal, width: int | None, rows: int) -> None:
    if width is None:
        shape, limit, chunks = (0,), (None,), (rows,)
    else:
        shape, limit = (0, width), (None, None)
        chunks = (min(rows, max(1, _CHUNK_VALUES // max(width, 1))), max(width, 1))
    fill = np.nan if signal.dtype == "float64" else None
    dataset = file.create_dataset(path, shape, signal.dtype, maxshape=limit, chunks=chunks, fillvalue=fill)
    dataset.attrs["unit"] = signal.unit
    dataset.attrs["description"] = signal.description
    dataset.attrs["kind"] = signal.kind


def read_tables(file: h5py.File) -> dict[str, np.ndarray]:
    """The committed rows of every dataset by its path, and the names of the layers as "gradients/layers".

    Of a file of OLD_FORMAT the columns that it does not have are NaN, and there are no samples.
    Raises ValueError, or what h5py raises, where the file is not whole: a dataset is missing or short, steps do not
    rise, a chunk cannot be read.
    """
    version = int(file.attrs["format"])
    if version not in (FORMAT, OLD_FORMAT):
        raise ValueError(f"it has format {version}, this version of ryzen_mpi has {FORMAT}")
    arrays: dict[str, np.ndarray] = {}
    counts = [*file[COMMITTED][()], *[0] * (version == OLD_FORMAT)]
    for (name, columns), rows in zip(TABLES.items(), counts, strict=True):
        for path, signal in columns.items():
            if version == OLD_FORMAT and path not in file:
                shape = (rows, 0) if signal.kind in RANKED else rows
                arrays[path] = np.full(shape, np.nan if signal.dtype == "float64" else 0, signal.dtype)
            else:
                arrays[path] = file[path][:rows]
            if len(arrays[path]) < rows:
                raise ValueError(f"{path} has {len(arrays[path])} rows of {rows}")
        if np.any(np.diff(arrays[f"{name}/step"], prepend=0) <= 0):
            raise ValueError(f"the steps in {name}/step do not rise")
    layers = file["gradients/gradient_variance"].attrs["layers"]
    return arrays | {"gradients/layers": np.array(list(layers), dtype=str)}
