"""Results as files: JSON, HDF5 with units as attributes, and a plot."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ryzen_mpi.bench.machine import machine
from ryzen_mpi.bench.output import datatype_name
from ryzen_mpi.bench.pairs import Pairs
from ryzen_mpi.bench.rows import FIGURES, Row
from ryzen_mpi.bench.run import Result
from ryzen_mpi.errors import UserError

MATRICES = {
    "latency_us": ("us", "half a round trip of the smallest message between rank i and rank j, median"),
    "send_mib_s": ("MiB/s", "what rank i saw of sending to rank j while all ranks sent, at the median"),
    "receive_mib_s": ("MiB/s", "what rank i saw of receiving from rank j while all ranks sent, at the median"),
}


def content(result: Result | Pairs) -> dict[str, Any]:
    """Everything that was measured, with machine and date, as JSON-able values; what is missing is null. Local."""
    options = result.options
    head = {
        "when": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "benchmark": result.benchmark.name,
        "title": result.benchmark.title,
        "datatype": datatype_name(options),
        "validated": options.validate,
        "unavailable": result.absent,
    }
    if isinstance(result, Pairs):
        matrices = {
            backend: {name: _plain(getattr(matrix, name).tolist()) for name in MATRICES}
            | {"disturbed": matrix.disturbed, "valid": matrix.valid}
            for backend, matrix in result.matrices.items()
        }
        sizes = {"latency_bytes": options.smallest, "bandwidth_bytes": options.largest}
        units = {name: unit for name, (unit, _) in MATRICES.items()}
        return head | {"ranks": len(result.hosts), "hosts": result.hosts, **sizes, "units": units, "pairs": matrices}
    return head | {
        "ranks": result.ranks,
        "nodes": result.nodes,
        "cache_bytes": result.cache_bytes[0],
        "units": {name: figure["unit"] for name, figure in FIGURES.items()},
        "rows": [_plain(asdict(row)) for rows in result.rows.values() for row in rows],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(result: Result | Pairs, path: Path) -> None:
    """Writes `content` to a file. Local. Raises UserError."""
    _written(path, lambda: path.write_text(json.dumps(content(result), indent=1) + "\n"))


def write_hdf5(result: Result | Pairs, path: Path) -> None:
    """Writes a group a backend, a dataset a figure, units and descriptions as attributes. Local. Raises UserError."""
    import h5py

    def write() -> None:
        with h5py.File(path, "w") as file:
            everything = content(result)
            for name in ("when", "benchmark", "title", "datatype", "ranks"):
                file.attrs[name] = everything[name]
            file.attrs["machine"] = json.dumps(everything["machine"])
            file.attrs["unavailable"] = json.dumps(everything["unavailable"])
            if isinstance(result, Pairs):
                file.attrs["hosts"] = result.hosts
                for backend, matrix in result.matrices.items():
                    for name, (unit, text) in MATRICES.items():
                        _dataset(file.require_group(backend), name, getattr(matrix, name), unit, text)
                return
            for backend, rows in result.rows.items():
                _write_rows(file.require_group(backend), rows)

    _written(path, write)


def _write_rows(group: Any, rows: list[Row]) -> None:
    for name, figure in FIGURES.items():
        _dataset(group, name, np.array([getattr(row, name) for row in rows]), figure["unit"], figure["description"])
    # HDF5 has no None: -1 is what was not checked or is not known
    for name, text in (("disturbed", "1: another process took the core"), ("valid", "1: the results were right")):
        values = [-1 if getattr(row, name) is None else int(getattr(row, name)) for row in rows]
        _dataset(group, name, np.array(values, dtype=np.int8), "1", f"{text}; 0: not so; -1: not known")
    group.create_dataset("unavailable", data=[row.unavailable or "" for row in rows])
    for percent in next((row.percentiles for row in rows if row.percentiles), {}):
        values = [row.percentiles.get(percent, float("nan")) for row in rows]
        _dataset(group, f"tail_p{percent}", np.array(values), "us, or MB/s of a bandwidth", "OSU's tail percentile")


def _dataset(group: Any, name: str, values: np.ndarray, unit: str, description: str) -> None:
    dataset = group.create_dataset(name, data=values)
    dataset.attrs["units"], dataset.attrs["description"] = unit, description


def write_plot(result: Result | Pairs, path: Path) -> None:
    """Draws the figures into a picture file of any kind matplotlib knows. Local. Raises UserError."""
    import matplotlib

    matplotlib.use("Agg")  # no display on a cluster
    from matplotlib import pyplot

    if isinstance(result, Pairs):
        figure = _plot_pairs(pyplot, result)
    else:
        figure = _plot_rows(pyplot, result)
    _written(path, lambda: figure.savefig(path, dpi=150))
    pyplot.close(figure)


def _plot_rows(pyplot: Any, result: Result) -> Any:
    """Medians, shaded up to p99; rows that were disturbed are hollow."""
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    bandwidth = result.benchmark.family == "bandwidth"
    for backend, rows in result.rows.items():
        rows = [row for row in rows if not row.unavailable]
        sizes = [max(1, row.bytes) for row in rows]
        values = [row.bandwidth_mb_s if bandwidth else row.p50_us for row in rows]
        (line,) = axes.plot(sizes, values, marker="o", label=backend)
        hollow = [(size, value) for size, value, row in zip(sizes, values, rows, strict=True) if row.disturbed]
        axes.plot(*zip(*hollow, strict=True), "o", color=line.get_color(), mfc="white") if hollow else None
        if not bandwidth:
            axes.fill_between(sizes, values, [row.p99_us for row in rows], color=line.get_color(), alpha=0.12)
    axes.set(xlabel="message size (bytes)", yscale="log")
    axes.set_xscale("log", base=2)
    what = "half a round trip" if result.benchmark.family == "latency" else "slowest rank"
    axes.set_ylabel("bandwidth (MB/s)" if bandwidth else f"{what}, median (us)")
    axes.set_title(f"{result.benchmark.name}, {result.ranks} ranks, {datatype_name(result.options)}")
    axes.grid(True, alpha=0.3)
    note = "hollow: disturbed" if bandwidth else "hollow: disturbed\nshaded: up to p99"
    figure.legend(loc="outside right upper", title=note, frameon=False)
    return figure


def _plot_pairs(pyplot: Any, result: Pairs) -> Any:
    size = (4 * 2, 3.5 * len(result.matrices))
    figure, grid = pyplot.subplots(len(result.matrices), 2, figsize=size, layout="constrained", squeeze=False)
    for line, (backend, matrix) in zip(grid, result.matrices.items(), strict=True):
        for axes, name, values, unit in (
            (line[0], "latency", matrix.latency_us, "us"),
            (line[1], "bandwidth", matrix.send_mib_s, "MiB/s"),
        ):
            image = axes.imshow(values, cmap="viridis")
            axes.set(title=f"{backend}: {name} ({unit})", xlabel="to rank", ylabel="from rank")
            axes.locator_params(integer=True)
            figure.colorbar(image, ax=axes)
    return figure


def _written(path: Path, write: Any) -> None:
    try:
        write()
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}", "name another file") from None
    except ValueError as error:  # matplotlib: a kind of picture it does not know
        raise UserError(f"{path} can't be written: {error}", "a name that ends in .png, .svg or .pdf") from None
