"""A gate's verdict for Prometheus' textfile collector: one file a phase, replaced each time the gate is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.validation.gate import VERDICTS, Verdict

_OF_GATE = ("phase", "set")


def write_gate_metrics(verdict: Verdict, path: Path) -> None:
    """Writes `verdict` to `path`, whole or not at all. Raises UserError."""
    if path.suffix != ".prom":
        raise UserError(f"{path} does not end in .prom", "the textfile collector reads nothing else")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(verdict, time.time()))
    try:
        write_atomic(path, generate_latest(registry).decode())
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}", "--prometheus FILE.prom") from error


class _Collector:
    def __init__(self, verdict: Verdict, now: float) -> None:
        self.verdict, self.now = verdict, now

    def collect(self) -> Iterator[Metric]:
        """Every family of metrics of the gate."""
        gate = (self.verdict.phase, self.verdict.set)
        said = GaugeMetricFamily(
            "ryzen_mpi_gate_verdict", "1 for what the gate said, 0 for the rest", labels=(*_OF_GATE, "verdict")
        )
        for name in VERDICTS:
            said.add_metric((*gate, name), float(name == self.verdict.verdict))
        yield said
        text = "when the gate was asked, in seconds since 1970-01-01 UTC"
        when = GaugeMetricFamily("ryzen_mpi_gate_judged_timestamp_seconds", text, labels=_OF_GATE)
        when.add_metric(gate, self.now)
        yield when
        yield from self._rows(gate)

    def _rows(self, gate: tuple[str, str]) -> Iterator[Metric]:
        names = (*_OF_GATE, "check", "figure")
        text = "1 where the threshold does not stand in the way, else 0; its label tells the verdict"
        met = GaugeMetricFamily("ryzen_mpi_gate_threshold_met", text, labels=(*names, "threshold", "verdict"))
        figures = GaugeMetricFamily("ryzen_mpi_gate_figure", "what the check measured", labels=(*names, "unit"))
        for row in self.verdict.rows:
            met.add_metric((*gate, row.check, row.figure, row.threshold, row.verdict), float(row.means == "GO"))
            if row.value is not None:
                figures.add_metric((*gate, row.check, row.figure, row.unit), row.value)
        yield met
        yield figures
