"""The steps and the samples of a run as tables for people, and as CSV. All functions are pure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from rich.table import Table as RichTable

from ryzen_mpi.metrics.reader import Metrics
from ryzen_mpi.metrics.signals import RANKED, SIGNALS, Signal, of_kind
from ryzen_mpi.units import bytes_text, duration_text

Rows = slice | np.ndarray


@dataclass(frozen=True)
class Column:
    """A column of a table for people.

    Attributes:
        signal: what is in it.
        text: of a figure that is known.
        fold: makes one figure of those of the ranks, "min" or "max"; "" where there is one.
        unit: what is above it; "" where the text has it.
    """

    signal: Signal
    text: Callable[[float], str]
    fold: str = ""
    unit: str = ""

    @property
    def head(self) -> tuple[str, str]:
        """The two lines above it."""
        return self.signal.name.removeprefix("rank_") if self.fold else self.signal.name, self.fold or self.unit

    def cells(self, metrics: Metrics, table: str, rows: Rows) -> list[str]:
        """Of these rows; a figure that is not known is a dash."""
        name = self.signal.name
        group = table if name in ("step", "wall_time_s") else self.signal.group
        array = metrics[f"{group}/{name}"][rows]
        if array.ndim == 2:
            array = _folded(array, self.fold)
        return ["-" if value != value else self.text(value) for value in array.tolist()]


def _folded(array: np.ndarray, fold: str) -> np.ndarray:
    """The smallest or largest of each row, NaN where none is known."""
    worst = math.inf if fold == "min" else -math.inf
    filled = np.where(np.isnan(array), worst, array)
    found = getattr(filled, fold)(axis=1, initial=worst)
    return np.where(np.isinf(found), np.nan, found)


def _form(form: str) -> Callable[[float], str]:
    return lambda value: format(value, form)


def _steps(name: str, form: str) -> Column:
    unit = SIGNALS[name].unit
    return Column(SIGNALS[name], _form(form), unit="" if unit == "1" else unit)


def _sample(name: str, text: Callable[[float], str], fold: str = "") -> Column:
    return Column(SIGNALS[name], text, fold)


def _rate(value: float) -> str:
    return f"{bytes_text(value)}/s"


def _clock(value: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(value))


SHOWN: dict[str, tuple[Column, ...]] = {
    "training": (
        _steps("step", "d"),
        _steps("loss", ".4f"),
        _steps("accuracy", ".2%"),
        _steps("learning_rate", ".3g"),
        _steps("gradient_norm", ".3g"),
        _steps("samples", "d"),
        _steps("tokens", "d"),
        _steps("step_s", ".4g"),
        _steps("communication_s", ".4g"),
        _steps("ranks", "d"),
        _steps("skipped", "d"),
    ),
    "samples": (
        _sample("step", _form("d")),
        _sample("wall_time_s", _clock),
        _sample("communication_share", _form(".1%")),
        _sample("allreduce_p50_s", duration_text),
        _sample("allreduce_p99_s", duration_text),
        _sample("bandwidth_used", _rate),
        _sample("rank_runqueue_share", _form(".1%"), "max"),
        _sample("rank_memory_available_bytes", bytes_text, "min"),
        _sample("rank_memory_pressure", _form(".1%"), "max"),
        _sample("rank_clock_hz", lambda value: f"{value / 1e9:.2f} GHz", "min"),
        _sample("rank_temperature_c", lambda value: f"{value:.0f} °C", "max"),
        _sample("rank_throttles", _form(".0f"), "max"),
        _sample("stragglers", _form(".0f")),
        _sample("acts", _form(".0f")),
        _sample("checkpoint_age_s", duration_text),
        _sample("disk_free_bytes", bytes_text),
    ),
}
"""What people are shown of the steps, and of the samples; --csv has everything."""


def table(metrics: Metrics, name: str, rows: Rows) -> RichTable:
    """These rows of "training" or "samples" for people. NaN shows as a dash, a column without figures not at all."""
    shown, unknown = RichTable(), []
    cells = []
    for column in SHOWN[name]:
        found = column.cells(metrics, name, rows)
        if name == "samples" and set(found) == {"-"}:
            unknown.append(column.signal.name)
            continue
        cells.append(found)
        shown.add_column("\n".join(filter(None, column.head)), justify="right")
    for row in zip(*cells, strict=True):
        shown.add_row(*row)
    shown.caption = f"not known here: {', '.join(unknown)}" if unknown else None
    if name == "training":
        shown.caption = held_out(metrics)
    return shown


def lines(metrics: Metrics, name: str, rows: Rows) -> Iterator[str]:
    """The same rows as lines of fixed width, for a table that grows. Without the head, which is `head`."""
    columns = SHOWN[name]
    for row in zip(*(column.cells(metrics, name, rows) for column in columns), strict=True):
        yield "  ".join(cell.rjust(_width(column)) for cell, column in zip(row, columns, strict=True))


def head(name: str) -> list[str]:
    """What stands above `lines`."""
    heads = [[text.rjust(_width(column)) for text in column.head] for column in SHOWN[name]]
    return ["  ".join(line).rstrip() for line in zip(*heads, strict=True)]


def _width(column: Column) -> int:
    return max(9, *map(len, column.head))


def held_out(metrics: Metrics) -> str | None:
    """The newest evaluation in a sentence."""
    if not len(metrics["evaluation/step"]):
        return None
    step, loss = metrics["evaluation/step"][-1], metrics["evaluation/held_out_loss"][-1]
    accuracy = metrics["evaluation/held_out_accuracy"][-1]
    return f"held-out data after step {step}: loss {loss:.4f} nat/token, accuracy {accuracy:.2%}"


# -- CSV ---------------------------------------------------------------------------------------------------------------


def csv(metrics: Metrics, name: str, rows: Rows) -> Iterator[str]:
    """These rows of "training" or "samples" as lines of CSV, the header first.

    A column a signal; for rank arrays a column a rank ("rank_step_s.0"), for the gradients a column a layer
    ("gradient_variance.blocks.0"). Every float is written so that it reads back equal; NaN, and what was not taken at a
    step, is "nan".
    """
    if name == "samples":
        signals = [SIGNALS["step"], SIGNALS["wall_time_s"], *of_kind("sample", "rank_sample")]
    else:
        signals = of_kind("step", "rank")
    columns: dict[str, list] = {}
    for signal in signals:
        group = name if signal.name in ("step", "wall_time_s") else signal.group
        array = metrics[f"{group}/{signal.name}"][rows]
        if signal.kind in RANKED:
            columns |= {f"{signal.name}.{rank}": values.tolist() for rank, values in enumerate(array.T)}
        else:
            columns[signal.name] = array.tolist()
    if name == "training":
        columns |= _at_some_steps(metrics, columns["step"])
    yield ",".join(columns)
    for row in zip(*columns.values(), strict=True):
        yield ",".join(map(repr, row))


def _at_some_steps(metrics: Metrics, steps: list[int]) -> dict[str, list]:
    """Columns of what was taken at some of these steps: gradients and evaluations."""
    columns: dict[str, list] = {}
    for signal in of_kind("layer", "evaluation"):
        taken = metrics[f"{signal.group}/step"].tolist()
        values = metrics[f"{signal.group}/{signal.name}"]
        names = (
            [signal.name] if values.ndim == 1 else [f"{signal.name}.{layer}" for layer in metrics["gradients/layers"]]
        )
        for name, column in zip(names, values.reshape(len(taken), len(names)).T, strict=True):
            at = dict(zip(taken, column.tolist(), strict=True))
            columns[name] = [at.get(step, float("nan")) for step in steps]
    return columns


def tail(last: int | None) -> slice:
    """The last rows, all where None."""
    return slice(None) if last is None else slice(-last, None) if last > 0 else slice(0, 0)
