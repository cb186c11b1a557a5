"""Two runs side by side at the steps that both have: losses, rates, held-out figures, and whether they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as RichTable

from ryzen_mpi.errors import UserError
from ryzen_mpi.figures import Figure, median
from ryzen_mpi.report.read_run import read_run
from ryzen_mpi.report.run_facts import RunFacts

ROWS = 20
_HALF = 0.975
"""Confidence of each of two medians whose ratio is to have 95 %, however they depend on one another (Bonferroni)."""


@dataclass(frozen=True)
class Comparison:
    """The second run against the first, at the steps that both have.

    Attributes:
        names: of the runs, distinct.
        step: those steps, rising.
        loss: of shape (2, steps).
        rate: samples a second, likewise; NaN where the samples of a step are not known.
        measured: True at the steps that rates are judged at, those after warm-up in both.
        held_out: step, and losses of both, at the evaluations that both made after one of these steps.
        settings: those that differ, by name: both values.
    """

    names: tuple[str, str]
    step: np.ndarray
    loss: np.ndarray
    rate: np.ndarray
    measured: np.ndarray
    held_out: tuple[tuple[int, float, float], ...]
    settings: Mapping[str, tuple[Any, Any]]

    @property
    def difference(self) -> np.ndarray:
        """Loss of the second run over the first, nat/token, at every step."""
        return self.loss[1] - self.loss[0]

    def loss_difference(self) -> Figure:
        """Median of the differences over the last quarter of the steps, at least the last 20."""
        known = self.difference[-max(20, len(self.step) // 4) :]
        return median(known[np.isfinite(known)])

    def speed(self) -> Figure:
        """How many times as fast the second run is: ratio of the medians; its interval holds at least 95 %."""
        one, other = (rates[np.isfinite(rates)] for rates in self.rate[:, self.measured])
        one, other = median(one, _HALF), median(other, _HALF)
        n, confidence = min(one.n, other.n), 1 - (1 - one.confidence) - (1 - other.confidence)
        if not n or not one.low > 0:
            return Figure(float("nan"), float("nan"), float("nan"), n, confidence)
        return Figure(other.value / one.value, other.low / one.high, other.high / one.low, n, confidence)


def compared(run: Path, other: Path, last: int | None = None) -> Comparison:
    """The runs of these directories (or metrics.h5 files in them), at the `last` steps that both have where given.

    Raises UserError where one is no run, or they have no step in common.
    """
    facts = [
        read_run(path.parent if path.name == "metrics.h5" and not path.is_dir() else path) for path in (run, other)
    ]
    steps = [one.steps.step if one.steps is not None else np.array([], int) for one in facts]
    common, *rows = np.intersect1d(*steps, assume_unique=True, return_indices=True)
    if not len(common):
        told = " and ".join(f"{one.name} has {_span(step)}" for one, step in zip(facts, steps, strict=True))
        raise UserError(f"the runs have no step in common: {told}", "give two runs that have trained the same steps")
    shown = slice(-last if last else None, None)
    common, rows = common[shown], [these[shown] for these in rows]
    measured = np.all([np.isin(common, one.measured().step) for one in facts], axis=0)
    return Comparison(
        names=_names(facts),
        step=common,
        loss=np.stack([one.steps.loss[these] for one, these in zip(facts, rows, strict=True)]),
        rate=np.stack([one.steps.rates()[these] for one, these in zip(facts, rows, strict=True)]),
        measured=measured if measured.any() else np.ones_like(measured),
        held_out=_held_out(facts, common),
        settings=_differing(*(one.settings for one in facts)),
    )


def _span(step: np.ndarray) -> str:
    return f"steps {step[0]} to {step[-1]}" if len(step) else "none"


def _names(facts: list[RunFacts]) -> tuple[str, str]:
    one, other = (facts[0].name, facts[1].name)
    return (one, other) if one != other else (str(facts[0].path), str(facts[1].path))


def _held_out(facts: list[RunFacts], common: np.ndarray) -> tuple[tuple[int, float, float], ...]:
    one, other = ({step: loss for step, loss, _ in run.held_out} for run in facts)
    return tuple((step, one[step], other[step]) for step in sorted(one.keys() & other.keys() & set(common.tolist())))


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    flat = [dict(_flat(settings)) for settings in (one, other)]
    names = [*flat[0], *(name for name in flat[1] if name not in flat[0])]
    pairs = {name: (flat[0].get(name), flat[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


# -- for people --------------------------------------------------------------------------------------------------------


def comparison_table(found: Comparison) -> RichTable:
    """Losses and rates side by side; of many steps every so many, rates as medians up to there since the row above."""
    table = RichTable()
    one, other = found.names
    for head in ("step", f"loss\n{one}", f"loss\n{other}", "difference", f"samples/s\n{one}", f"samples/s\n{other}"):
        table.add_column(head, justify="right")
    table.add_column("ratio", justify="right")
    shown = np.unique(np.linspace(0, len(found.step) - 1, min(ROWS, len(found.step))).round().astype(int))
    for before, row in zip([-1, *shown[:-1].tolist()], shown.tolist(), strict=True):
        with np.errstate(all="ignore"):
            rates = [_middle(rates[before + 1 : row + 1]) for rates in found.rate]
            ratio = rates[1] / rates[0] if rates[0] else np.nan
        loss = [f"{value:.4f}" for value in found.loss[:, row]]
        cells = (*loss, f"{found.difference[row]:+.2g}", *(f"{rate:.4g}" for rate in rates), f"{ratio:.3f}")
        table.add_row(str(found.step[row]), *("-" if "nan" in cell else cell for cell in cells))
    return table


def _middle(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def sentences(found: Comparison) -> Iterator[str]:
    """Whether the runs differ: in loss, in speed, on held-out data, in their settings."""
    one, other = found.names
    yield f"{len(found.step)} steps in common, {found.step[0]} to {found.step[-1]}."
    yield _of_losses(found)
    speed = found.speed()
    interval = f"{speed.low:.3f} to {speed.high:.3f} at {speed.confidence:.0%}, n={speed.n}"
    if speed.value != speed.value:
        yield "Speed: not known."
    elif speed.low <= 1 <= speed.high:
        yield f"Speed: no difference can be told; {other} trains {speed.value:.3f} times as fast as {one} ({interval})."
    else:
        yield f"Speed: they differ; {other} trains {speed.value:.3f} times as fast as {one} ({interval})."
    if found.held_out:
        step, first, second = found.held_out[-1]
        yield f"Held-out loss after step {step}: {first:.4f} and {second:.4f} nat/token, {second - first:+.4f}."
    else:
        yield "Held-out loss: no evaluation after the same step."
    if found.settings:
        told = "; ".join(f"{name} {first} and {second}" for name, (first, second) in found.settings.items())
        yield f"Settings that differ: {told}."


def _of_losses(found: Comparison) -> str:
    differ = np.flatnonzero(~((found.loss[0] == found.loss[1]) | np.isnan(found.loss).all(axis=0)))
    if not len(differ):
        return "Loss: equal at every one of them, bit for bit."
    figure, other = found.loss_difference(), found.names[1]
    first = f"they differ from step {found.step[differ[0]]} on, by at most {_most(found.difference):.3g} nat/token"
    interval = f"{figure.low:+.3g} to {figure.high:+.3g} at {figure.confidence:.0%}, n={figure.n}"
    if not figure.low > 0 and not figure.high < 0:
        return f"Loss: {first}; neither is the lower over the last steps ({interval})."
    which = "higher" if figure.value > 0 else "lower"
    return f"Loss: {first}; over the last steps {other} is {which} by {abs(figure.value):.3g} ({interval})."


def _most(values: np.ndarray) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def comparison_csv(found: Comparison) -> Iterator[str]:
    """Every common step as a line of CSV, the header first; .0 is the first run, .1 the second."""
    yield "step,loss.0,loss.1,loss_difference,samples_per_s.0,samples_per_s.1"
    columns = (found.step, *found.loss, found.difference, *found.rate)
    for row in zip(*(column.tolist() for column in columns), strict=True):
        yield ",".join(map(repr, row))
