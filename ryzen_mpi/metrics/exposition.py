"""The newest records as Prometheus sees them: a gauge a signal, and counters of what happened in this attempt.

Signals are gauges, also those that seem only to grow: a rollback takes samples and steps back, and Prometheus reads a
counter that falls as a restart and adds all of it once more. What has to be summed without missing a step between two
scrapes is counted here, from zero in each attempt, which is what Prometheus expects of a counter.
"""

from __future__ import annotations

import math
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ryzen_mpi import __version__
from ryzen_mpi.metrics.record import EvaluationRecord, Record, SampleRecord, StepRecord
from ryzen_mpi.metrics.signals import RANKED, SIGNALS, Signal, prometheus_name

RUN_LABELS = ("jobid", "run")
TELLING_NAN = ("loss", "accuracy", "perplexity", "gradient_norm", "rank_gradient_norm")
"""Signals of which NaN is a result. Of others it means "not known", and a series without a value is left out."""
SUMMED = ("rank_retransmits", "rank_packets_lost", "rank_throttles")
"""Signals that tell how often since the sample before: also counted, so that no sample is missed between scrapes."""

STEP_COUNTERS = {
    "ryzen_mpi_attempt_steps": "steps in this attempt, skipped ones included",
    "ryzen_mpi_attempt_skipped_steps": "steps skipped in this attempt",
    "ryzen_mpi_attempt_not_finite_steps": "steps in this attempt whose loss or gradient was no finite number",
    "ryzen_mpi_attempt_tokens": "tokens trained in this attempt, those of skipped steps not counted",
    "ryzen_mpi_attempt_step_seconds": "duration of all steps in this attempt, slowest rank",
    "ryzen_mpi_attempt_communication_seconds": "time blocked in collectives in this attempt, mean over the ranks",
}


def summed_name(signal: Signal) -> str:
    """The counter of a signal in SUMMED, without the "_total" that Prometheus wants after it."""
    return f"ryzen_mpi_attempt_{signal.name}"


class Exposition:
    """What a scrape sees. `take` is for one thread; `collect` may be called by any.

    Args:
        labels: has "run" and "jobid", the labels of every series; others in it are not used.
        hosts: the node of each rank, in rank order.
        layers: the names of the layers that `gradient_variance` has a value for; their numbers where it is empty.
    """

    def __init__(self, labels: Mapping[str, str], hosts: Sequence[str], layers: Sequence[str] = ()) -> None:
        self._run = tuple(_text(labels.get(name, "none")) for name in RUN_LABELS)
        self._hosts, self._layers = tuple(map(_text, hosts)), tuple(map(_text, layers))
        self._lock = threading.Lock()
        self._newest: dict[type, Record] = {}
        self._variance: Sequence[float] | None = None
        self._counts = dict.fromkeys(STEP_COUNTERS, 0.0)
        self._sums: dict[str, dict[int, float]] = {name: defaultdict(float) for name in SUMMED}
        self._began = time.time()
        self.running = True
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def take(self, record: Record) -> None:
        """Makes `record` the newest of its kind. Takes a few microseconds."""
        with self._lock:
            self._newest[type(record)] = record
            if isinstance(record, StepRecord):
                self._count(record)
            elif isinstance(record, SampleRecord):
                self._sum(record)

    def collect(self) -> Iterator[Metric]:
        """Every family of metrics that has something to say."""
        with self._lock:
            newest, variance, counts = dict(self._newest), self._variance, dict(self._counts)
            sums = {name: dict(values) for name, values in self._sums.items()}
        yield self._gauge("ryzen_mpi_running", "1 while the run trains, 0 once it has ended in order", self.running)
        text = "start of this attempt, in seconds since 1970-01-01 UTC"
        yield self._gauge("ryzen_mpi_start_timestamp_seconds", text, self._began)
        yield self._build_info()
        for signal in SIGNALS.values():
            value = variance if signal.kind == "layer" else _value(newest, signal)
            family = GaugeMetricFamily(prometheus_name(signal), signal.description, labels=self._label_names(signal))
            self._fill(family, signal, value)
            if family.samples:
                yield family
        for kind, name in ((StepRecord, "step"), (SampleRecord, "sample")):
            if kind in newest:
                text = f"end of the newest {name}, in seconds since 1970-01-01 UTC"
                yield self._gauge(f"ryzen_mpi_last_{name}_timestamp_seconds", text, newest[kind].wall_time_s)
        yield from self._counters(counts, sums)

    def _count(self, record: StepRecord) -> None:
        counts = self._counts
        counts["ryzen_mpi_attempt_steps"] += 1
        counts["ryzen_mpi_attempt_skipped_steps"] += record.skipped
        finite = math.isfinite(record.loss) and math.isfinite(record.gradient_norm)
        counts["ryzen_mpi_attempt_not_finite_steps"] += not finite
        counts["ryzen_mpi_attempt_tokens"] += 0 if record.skipped else record.tokens
        counts["ryzen_mpi_attempt_step_seconds"] += _known(record.step_s)
        counts["ryzen_mpi_attempt_communication_seconds"] += _known(record.communication_s)
        if record.gradient_variance is not None:
            self._variance = record.gradient_variance

    def _sum(self, record: SampleRecord) -> None:
        for name, sums in self._sums.items():
            for rank, value in enumerate(record.rank_values.get(name, ())):
                if math.isfinite(value):
                    sums[rank] += value

    def _label_names(self, signal: Signal) -> tuple[str, ...]:
        if signal.kind in RANKED:
            return (*RUN_LABELS, "rank", "node")
        return (*RUN_LABELS, "layer") if signal.kind == "layer" else RUN_LABELS

    def _fill(self, family: Metric, signal: Signal, value: float | Sequence[float] | None) -> None:
        if value is None:
            return
        if signal.kind in RANKED:
            labelled = [(self._of_rank(rank), each) for rank, each in enumerate(value)]
        elif signal.kind == "layer":
            labelled = [(self._of_layer(layer), each) for layer, each in enumerate(value)]
        else:
            labelled = [((), value)]
        for labels, each in labelled:
            if each == each or signal.name in TELLING_NAN:
                family.add_metric((*self._run, *labels), float(each))

    def _of_rank(self, rank: int) -> tuple[str, str]:
        return str(rank), self._hosts[rank] if rank < len(self._hosts) else ""

    def _of_layer(self, layer: int) -> tuple[str]:
        return (self._layers[layer] if layer < len(self._layers) else str(layer),)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=RUN_LABELS)
        family.add_metric(self._run, float(value))
        return family

    def _build_info(self) -> Metric:
        text = "1; its labels tell the versions of ryzen_mpi and Python"
        family = GaugeMetricFamily("ryzen_mpi_build_info", text, labels=(*RUN_LABELS, "version", "python"))
        family.add_metric((*self._run, __version__, platform.python_version()), 1.0)
        return family

    def _counters(self, counts: Mapping[str, float], sums: Mapping[str, Mapping[int, float]]) -> Iterator[Metric]:
        for name, text in STEP_COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=RUN_LABELS)
            family.add_metric(self._run, counts[name])
            yield family
        for name, values in sums.items():
            signal = SIGNALS[name]
            text = f"{signal.description}, added up in this attempt"
            family = CounterMetricFamily(summed_name(signal), text, labels=self._label_names(signal))
            for rank, value in sorted(values.items()):
                family.add_metric((*self._run, *self._of_rank(rank)), value)
            if values:
                yield family


_RECORDS = {"evaluation": EvaluationRecord, "sample": SampleRecord, "rank_sample": SampleRecord}


def _value(newest: Mapping[type, Record], signal: Signal) -> float | Sequence[float] | None:
    record = newest.get(_RECORDS.get(signal.kind, StepRecord))
    if isinstance(record, SampleRecord):
        return record.value(signal.name)
    return None if record is None else getattr(record, signal.name)


def _text(label: object) -> str:
    """As UTF-8 can carry it: a folder's name may hold bytes that are none."""
    return str(label).encode(errors="replace").decode()


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0
