"""docs/signals.md, made from the table of signals: `python -m ryzen_mpi.metrics.signals_page > docs/signals.md`."""

from __future__ import annotations

from collections.abc import Iterable

from ryzen_mpi.metrics.signals import SIGNALS, Kind, Signal, prometheus_name

_KINDS: dict[Kind, str] = {
    "step": "one value a step",
    "rank": "one value a step and rank",
    "layer": "one value a layer, at every `training.log_interval` steps",
    "evaluation": "one value a held-out evaluation",
    "sample": "one value every `monitor.sample_s` seconds",
    "rank_sample": "one value every `monitor.sample_s` seconds and rank",
}
_GROUPS = {
    "training": "Training",
    "communication": "Communication",
    "hardware": "Hardware",
    "gradients": "Gradients",
    "evaluation": "Held-out data",
    "system": "System health",
}
_HEAD = """\
# What is measured

Made from the table in `ryzen_mpi/metrics/signals.py`: `python -m ryzen_mpi.metrics.signals_page > docs/signals.md`.

Every signal has one name, unit and description, wherever it is shown. In `metrics.h5` it is a dataset, with unit and
description as attributes; the steps of its rows are in `training/step`, `gradients/step`, `evaluation/step` or
`samples/step`, whatever its own group. Prometheus has it under the name in the last column, with the labels of the run,
and `rank` where there is a value a rank; base units are written out there, the figures are the same. A value that
cannot be had on a machine (no sensor, no rights, no network between nodes) is NaN in the file and missing elsewhere.

Kinds:

| kind | what there is |
|---|---|
"""


def page() -> str:
    """The whole of docs/signals.md."""
    kinds = "".join(f"| {kind} | {text} |\n" for kind, text in _KINDS.items())
    return _HEAD + kinds + "".join(_section(group) for group in _GROUPS)


def _section(group: str) -> str:
    rows = [_row(signal) for signal in SIGNALS.values() if signal.group == group]
    return f"\n## {_GROUPS[group]}\n\n" + _table(("dataset", "unit", "kind", "what", "at Prometheus"), rows)


def _row(signal: Signal) -> tuple[str, ...]:
    dataset = f"`{signal.group}/{signal.name}`"
    return dataset, signal.unit, signal.kind, signal.description, f"`{prometheus_name(signal)}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, tuple("---" for _ in head), *rows)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    print(page(), end="")
