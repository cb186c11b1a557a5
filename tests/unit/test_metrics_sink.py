"""The fan-out: every sink gets every record; a broken one is told of once and never stops training."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from metrics_records import ENVIRONMENT, LAYERS, step_record

from ryzen_mpi.metrics.events import EventLog, read_records
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.reader import read_metrics
from ryzen_mpi.metrics.sink import NullSink, Sinks


class Broken:
    """Fails in one method."""

    def __init__(self, method: str) -> None:
        self.method, self.calls = method, []

    def __getattr__(self, name):
        def act(*arguments):
            self.calls.append(name)
            if name == self.method:
                raise OSError(28, "No space left on device")

        return act


class Kept(NullSink):
    def __init__(self) -> None:
        self.steps = []

    def write(self, record) -> None:
        self.steps.append(record.step)


@pytest.mark.parametrize("method", ["write", "flush", "close"])
def test_a_failing_sink_is_told_of_once_and_dropped(method):
    told, broken, kept = [], Broken(method), Kept()
    sinks = Sinks([broken, kept, NullSink()], told.append)
    for step in (1, 2, 3):
        sinks.write(step_record(step))
        sinks.flush()
    sinks.close()
    assert kept.steps == [1, 2, 3]
    assert len(told) == 1 and "Broken" in told[0] and "No space left" in told[0]
    assert broken.calls.count(method) == 1 or method == "close"


def test_all_sinks_get_all_records(tmp_path):
    log = EventLog(tmp_path / "events", 0)
    sinks = Sinks([Hdf5Sink(tmp_path / "metrics.h5", 4, LAYERS), log])
    records = [step_record(step) for step in range(1, 31)]
    for record in records:
        sinks.write(record)
    sinks.close()
    assert read_metrics(tmp_path / "metrics.h5")["training/step"].tolist() == list(range(1, 31))
    assert list(map(repr, read_records(log.path))) == list(map(repr, records))


def test_a_disk_that_fills_up_drops_the_files_and_lets_training_go_on(tmp_path):
    source = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {__file__.rsplit("/", 1)[0]!r})
        from pathlib import Path
        from metrics_records import LAYERS, step_record
        from ryzen_mpi.metrics.events import EventLog
        from ryzen_mpi.metrics.hdf5 import Hdf5Sink
        from ryzen_mpi.metrics.sink import Sinks
        disk, told = Path(sys.argv[1]), []
        sinks = Sinks([Hdf5Sink(disk / "metrics.h5", 4, LAYERS), EventLog(disk / "events", 0)], told.append)
        for step in range(1, 5001):
            sinks.write(step_record(step))
        sinks.close()
        for line in told:
            print("told", line)
        from ryzen_mpi.metrics.reader import read_metrics
        print("rows", len(read_metrics(disk / "metrics.h5")["training/step"]))
        print("trained on")
    """)
    mount = f'mount -t tmpfs -o size=2m tmpfs {tmp_path} && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", source, str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(done.stderr)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1] == "trained on", done.stdout + done.stderr
    assert sum("Hdf5Sink failed and is dropped" in line for line in lines) == 1
    assert sum("EventLog failed and is dropped" in line for line in lines) == 1
    assert int(lines[-2].split()[1]) > 300
