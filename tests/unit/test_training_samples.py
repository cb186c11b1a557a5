"""What a sample tells of the steps since the one before."""

import numpy as np
import pytest

from ryzen_mpi.cluster.gauges import NAMES
from ryzen_mpi.metrics.signals import SIGNALS, of_kind
from ryzen_mpi.training.agreement import UNKNOWN, Row, Table
from ryzen_mpi.training.samples import Samples, exchanged_bytes, node_sizes


def table(ranks=2, throttles=0.0, looks=1.0, **changes):
    gauges = tuple(throttles if name == "throttles" else value for name, value in zip(NAMES, UNKNOWN, strict=True))
    rows = [
        Row(step_s=0.1, communication_s=0.02, reduce_s=0.01 * (1 + rank), looks=looks, gauges=gauges)
        for rank in range(ranks)
    ]
    for row in rows:
        for name, value in changes.items():
            setattr(row, name, value)
    return Table.of(rows)


def samples(interval_s=1e9, figures=dict):
    return Samples(interval_s, 1000, [2], False, figures)


def test_the_first_step_has_a_sample_and_the_next_comes_when_it_is_due():
    taken = samples()
    assert taken.add(1, table(), table()).step == 1
    assert taken.add(2, table(), table()) is None
    assert samples(0.0).add(1, table(), table()) and samples(0.0).add(2, table(), table())


def test_the_reduction_is_that_of_the_slowest_rank_over_the_steps_since():
    taken = samples()
    taken.add(1, table(), table())
    for step, factor in enumerate((1.0, 2.0, 3.0), 2):
        taken.add(step, table(), table(reduce_s=0.01 * factor))
    sample = taken.take(4, table())
    assert sample.values["allreduce_mean_s"] == pytest.approx(0.02) == sample.values["allreduce_p50_s"]
    assert sample.values["allreduce_p99_s"] > 0.029
    assert sample.values["communication_share"] == pytest.approx(0.2)
    assert sample.values["node_bytes"] == 2000 and sample.values["bandwidth_used"] == pytest.approx(100_000)


def test_events_of_a_look_count_once_however_many_steps_it_lasts():
    taken = samples()
    taken.add(1, table(), table())
    for step in range(2, 6):
        taken.add(step, table(throttles=3.0, looks=2.0), table())
    taken.add(6, table(throttles=4.0, looks=3.0), table())
    assert taken.take(6, table()).rank_values["rank_throttles"].tolist() == [7.0, 7.0]


def test_all_that_a_sample_tells_are_signals_of_its_kinds():
    sample = samples(figures=lambda: {"attempt": 1}).add(1, table(), table())
    assert set(sample.values) <= {signal.name for signal in of_kind("sample")}
    assert set(sample.rank_values) == {signal.name for signal in of_kind("rank_sample")}


def test_gradients_go_round_a_ring_once_or_twice():
    assert exchanged_bytes(100, [4, 4], sharded=False) == 2 * 2 * 3 * 100
    assert exchanged_bytes(100, [4, 1], sharded=True) == 300
    assert node_sizes(["a", "b", "a"]) == [2, 1]


def test_every_gauge_is_a_signal():
    assert {f"rank_{name}" for name in NAMES} <= set(SIGNALS)
    assert np.isnan(table().gauges["clock_hz"]).all()
