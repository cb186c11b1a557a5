"""Samples in metrics.h5, going back to an earlier step, and files of the format before samples were kept."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from metrics_records import ENVIRONMENT, LAYERS, evaluation_record, sample_record, step_record

from ryzen_mpi.commands.metrics import metrics_command
from ryzen_mpi.metrics.events import EventLog, read_records
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.hdf5_table import TABLES
from ryzen_mpi.metrics.reader import Metrics, read_metrics
from ryzen_mpi.metrics.record import Record
from ryzen_mpi.metrics.signals import SIGNALS, of_kind

OLD_COLUMNS = ("training/rank_gradient_norm", "communication/reduce_s")


def records(first: int, last: int, **changes) -> list[Record]:
    """Steps first..last, each sixth with a sample and each tenth with an evaluation before it, as training has them."""
    found: list[Record] = []
    for step in range(first, last + 1):
        found += [sample_record(step)] * (step % 6 == 0) + [evaluation_record(step)] * (step % 10 == 0)
        found.append(step_record(step, **changes))
    return found


def write(target: Hdf5Sink | EventLog, these: list[Record]) -> None:
    for record in these:
        target.write(record)


def assert_samples(metrics: Metrics, steps: list[int]) -> None:
    """The samples after these steps are there, every figure as it was written."""
    samples = [sample_record(step) for step in steps]
    assert metrics["samples/step"].tolist() == steps
    assert metrics["samples/wall_time_s"].tolist() == [sample.wall_time_s for sample in samples]
    for signal in of_kind("sample", "rank_sample"):
        values = metrics[f"{signal.group}/{signal.name}"].tolist()
        assert values == [np.array(sample.value(signal.name)).tolist() for sample in samples], signal.name


def assert_as_if_never_further(path: Path, last: int) -> None:
    """The file holds what one holds that was only ever written up to step `last`."""
    fresh = path.with_name("fresh.h5")
    sink = Hdf5Sink(fresh, 4, LAYERS)
    write(sink, records(1, last))
    sink.close()
    expected, found = read_metrics(fresh), read_metrics(path)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    fresh.unlink()


def test_samples_are_read_as_they_were_written_and_cut_on_resume(tmp_path):
    path = tmp_path / "metrics.h5"
    sink = Hdf5Sink(path, 4, LAYERS)
    write(sink, records(1, 50))
    sink.close()
    assert_samples(read_metrics(path), [6, 12, 18, 24, 30, 36, 42, 48])
    Hdf5Sink(path, 4, LAYERS, 30).close()
    assert_samples(read_metrics(path), [6, 12, 18, 24, 30])
    sink = Hdf5Sink(path, 4, LAYERS, 29)
    write(sink, records(30, 40))
    sink.close()
    assert_as_if_never_further(path, 40)


def test_what_a_sample_does_not_tell_is_nan_and_ranks_may_come_and_go(tmp_path):
    path = tmp_path / "metrics.h5"
    sink = Hdf5Sink(path, 2, LAYERS)
    sink.write(sample_record(1, ranks=2, without=("rank_power_w", "check_ring")))
    sink.write(sample_record(2, ranks=5, without=("rank_power_w",)))
    sink.close()
    metrics = read_metrics(path)
    assert np.isnan(metrics["hardware/rank_power_w"]).all() and len(metrics["hardware/rank_power_w"]) == 2
    assert np.isnan(metrics["communication/check_ring"]).tolist() == [True, False]
    clock = metrics["hardware/rank_clock_hz"]
    assert clock.shape == (2, 5) and np.isnan(clock).tolist() == [[False] * 2 + [True] * 3, [False] * 5]


def test_a_second_sample_after_the_same_step_is_left_out_and_the_file_stays_readable(tmp_path):
    path = tmp_path / "metrics.h5"
    sink = Hdf5Sink(path, 4, LAYERS)
    sink.write(sample_record(3))
    sink.write(sample_record(3, without=("stragglers",)))
    sink.flush()
    sink.write(sample_record(3, without=("stragglers",)))
    sink.close()
    assert_samples(read_metrics(path), [3])


def test_samples_come_back_from_the_event_log_with_all_that_is_no_number(tmp_path):
    log = EventLog(tmp_path, 0)
    sample = sample_record(7, without=("rank_power_w",))
    odd = type(sample)(7, 8.5, sample.values | {"check_ring": math.nan, "bandwidth_used": math.inf}, sample.rank_values)
    odd.rank_values["rank_temperature_c"] = (math.nan, 41.5, math.nan, 40.0)
    log.write(odd)
    log.event("sample", "not a record though it is called one", step=7)
    (back,) = read_records(log.path)
    assert (back.step, back.wall_time_s) == (7, 8.5)
    for signal in of_kind("sample", "rank_sample"):
        np.testing.assert_array_equal(back.value(signal.name), odd.value(signal.name), err_msg=signal.name)


def test_samples_lost_with_a_killed_writer_are_taken_from_the_events(tmp_path):
    source = textwrap.dedent(f"""
        import os, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from pathlib import Path
        from metrics_records import LAYERS
        from test_metrics_samples import records
        from ryzen_mpi.metrics.events import EventLog
        from ryzen_mpi.metrics.hdf5 import Hdf5Sink
        from ryzen_mpi.metrics.sink import Sinks
        sinks = Sinks([Hdf5Sink(Path(sys.argv[1]) / "metrics.h5", 4, LAYERS), EventLog(Path(sys.argv[1]), 0)])
        for record in records(1, 58):
            sinks.write(record)
        os.kill(os.getpid(), 9)
    """)
    done = subprocess.run([sys.executable, "-c", source, tmp_path], env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == -9
    path = tmp_path / "metrics.h5"
    lost = read_metrics(path)
    assert lost["samples/step"][-1] < 54 and lost["training/step"][-1] < 57
    Hdf5Sink(path, 4, LAYERS, 57, events=tmp_path / "rank-0000.jsonl").close()
    assert_samples(read_metrics(path), list(range(6, 55, 6)))
    assert_as_if_never_further(path, 57)


def test_what_a_rollback_undid_is_not_taken_from_the_events(tmp_path):
    log = EventLog(tmp_path, 0)
    write(log, records(1, 40, loss=9.0))
    again = records(21, 60)
    write(log, [record for record in again if record.step not in (24, 36) or record == step_record(record.step)])
    log.close()
    path = tmp_path / "metrics.h5"
    Hdf5Sink(path, 4, LAYERS, 50, events=log.path).close()
    metrics = read_metrics(path)
    assert_samples(metrics, [6, 12, 18, 30, 42, 48])
    assert metrics["training/loss"].tolist() == [9.0] * 20 + [5 / step for step in range(21, 51)]


def test_a_step_written_twice_is_refused_rather_than_spoiling_the_file(tmp_path):
    sink = Hdf5Sink(tmp_path / "metrics.h5", 4, LAYERS)
    write(sink, records(1, 30))
    with pytest.raises(ValueError, match="step 30 after step 30"):
        sink.write(step_record(30))
    sink.close()
    assert_as_if_never_further(tmp_path / "metrics.h5", 30)


# -- the format before --------------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    """A run directory as the version before wrote it: format 2, without samples and what came with them."""
    path = tmp_path / "metrics.h5"
    sink = Hdf5Sink(path, 4, LAYERS)
    write(sink, [record for record in records(1, 30) if not isinstance(record, type(sample_record(1)))])
    sink.close()
    with h5py.File(path, "r+") as file:
        for name in [*TABLES["samples"], *OLD_COLUMNS]:
            del file[name]
        del file["samples"], file["system"]
        committed = file["committed_rows"][:3]
        del file["committed_rows"]
        file["committed_rows"] = committed
        file.attrs["format"] = 2
    return tmp_path


def test_a_file_of_the_format_before_is_shown(old):
    metrics = read_metrics(old / "metrics.h5")
    assert metrics.keys() == {name for table in TABLES.values() for name in table} | {"gradients/layers"}
    assert metrics["training/loss"].tolist() == [5 / step for step in range(1, 31)]
    assert np.isnan(metrics["communication/reduce_s"]).sum() == 30
    assert metrics["training/rank_gradient_norm"].shape == (30, 0)
    for path, signal in TABLES["samples"].items():
        assert len(metrics[path]) == 0 and metrics[path].dtype == SIGNALS[signal.name].dtype, path
    shown = CliRunner().invoke(metrics_command, [str(old)])
    assert shown.exit_code == 0 and "held-out data after step 30" in shown.output
    lines = CliRunner().invoke(metrics_command, [str(old), "--csv"]).output.splitlines()
    column = lines[0].split(",").index("reduce_s")
    assert len(lines) == 31 and {line.split(",")[column] for line in lines[1:]} == {"nan"}


def test_a_file_of_the_format_before_is_not_continued_but_built_again(old):
    log, told = EventLog(old / "events", 0), []
    write(log, records(1, 30))
    log.close()
    path = old / "metrics.h5"
    Hdf5Sink(path, 4, LAYERS, 25, events=log.path, report=told.append).close()
    assert_as_if_never_further(path, 25)
    assert len(told) == 1 and "format 2" in told[0]
    assert len(read_metrics(old / "metrics.h5.damaged-1")["training/step"]) == 30
