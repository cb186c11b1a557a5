"""metrics.h5: told apart by attributes, cut on resume, readable after a kill, built again after damage."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from metrics_records import ENVIRONMENT, LAYERS, evaluation_record, step_record

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics import hdf5
from ryzen_mpi.metrics.events import EventLog
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.hdf5_file import SafeFile, journal_path
from ryzen_mpi.metrics.reader import Metrics, read_metrics
from ryzen_mpi.metrics.signals import SIGNALS


def sink(path: Path, resume_step: int = 0, ranks: int = 4, **options) -> Hdf5Sink:
    return Hdf5Sink(path, ranks, LAYERS, resume_step, **options)


def written(path: Path, first: int, last: int, ranks: int = 4, resume_step: int = 0, **options) -> Metrics:
    """Writes steps first..last, an evaluation every ten; returns what is then read."""
    target = sink(path, resume_step, ranks, **options)
    for step in range(first, last + 1):
        target.write(step_record(step, ranks))
        if step % 10 == 0:
            target.write(evaluation_record(step))
    target.close()
    return read_metrics(path)


def assert_rows(metrics: Metrics, last: int) -> None:
    """Steps 1..last are there with the figures they were written with."""
    assert metrics["training/step"].tolist() == list(range(1, last + 1))
    records = [step_record(step) for step in range(1, last + 1)]
    for name in ("loss", "wall_time_s", "samples", "skipped", "tokens"):
        assert metrics[f"training/{name}"].tolist() == [getattr(record, name) for record in records]
    assert metrics["gradients/step"].tolist() == list(range(5, last + 1, 5))
    varied = [record.gradient_variance for record in records if record.gradient_variance]
    assert metrics["gradients/gradient_variance"].tolist() == list(map(list, varied))
    assert metrics["evaluation/step"].tolist() == list(range(10, last + 1, 10))
    shares = np.array([record.rank_cpu_share for record in records]).reshape(last, 4)
    np.testing.assert_array_equal(metrics["hardware/rank_cpu_share"], shares)


def test_what_was_written_is_read(tmp_path):
    metrics = written(tmp_path / "metrics.h5", 1, 50)
    assert_rows(metrics, 50)
    assert metrics["training/loss"].dtype == np.float64 and metrics["training/step"].dtype == np.int64
    assert metrics["hardware/rank_rss_bytes"].shape == (50, 4)
    assert metrics["gradients/layers"].tolist() == LAYERS


def test_every_dataset_says_its_unit_and_meaning_as_the_table_has_them(tmp_path):
    written(tmp_path / "metrics.h5", 1, 5, run={"run": "r1", "profile": "default", "seed": 7})
    seen = set()
    with h5py.File(tmp_path / "metrics.h5") as file:
        groups = {"training", "communication", "hardware", "evaluation", "gradients", "samples", "system"}
        assert set(file) == groups | {"committed_rows"}
        assert file.attrs["format"] == 3 and file.attrs["profile"] == "default" and file.attrs["seed"] == 7

        def check(path, item):
            if isinstance(item, h5py.Dataset):
                if path == "committed_rows":
                    assert item.attrs["unit"] == "1" and "training, gradients, evaluation" in item.attrs["description"]
                    return
                signal = SIGNALS[path.split("/")[1]]
                seen.add(signal.name)
                assert item.attrs["unit"] == signal.unit and item.attrs["description"] == signal.description
                assert item.dtype == signal.dtype and item.maxshape[0] is None

        file.visititems(check)
    assert seen == set(SIGNALS)


def test_a_batch_is_on_disk_after_20_rows_or_10_seconds(tmp_path, monkeypatch):
    path = tmp_path / "metrics.h5"
    target = sink(path)
    for step in range(1, 46):
        target.write(step_record(step))
    assert len(read_metrics(path)["training/step"]) == 40  # also: a running writer can be read
    later = time.monotonic() + 11
    monkeypatch.setattr(hdf5.time, "monotonic", lambda: later)
    target.write(step_record(46))
    assert len(read_metrics(path)["training/step"]) == 46
    target.close()
    target.close()


def test_resuming_cuts_what_came_after_the_step_resumed_from(tmp_path):
    path = tmp_path / "metrics.h5"
    written(path, 1, 57)
    sink(path, resume_step=42).close()
    assert_rows(read_metrics(path), 42)
    assert_rows(written(path, 43, 60, resume_step=42), 60)
    sink(path, resume_step=0).close()
    assert_rows(read_metrics(path), 0)


def test_the_number_of_ranks_may_change(tmp_path):
    path = tmp_path / "metrics.h5"
    written(path, 1, 10, ranks=3)
    written(path, 11, 20, ranks=6, resume_step=10)
    metrics = written(path, 21, 30, ranks=2, resume_step=20)
    assert metrics["training/ranks"].tolist() == [3] * 10 + [6] * 10 + [2] * 10
    shares = metrics["communication/rank_communication_s"]
    assert shares.shape == (30, 6)
    for row, ranks in zip(shares, metrics["training/ranks"], strict=True):
        assert np.isfinite(row[:ranks]).all() and np.isnan(row[ranks:]).all()


def log(directory: Path, *spans: range) -> Path:
    """An event log with the records of `spans`, one attempt each; what a step had in earlier attempts is different."""
    for number, span in enumerate(spans):
        events = EventLog(directory, 0)
        for step in span:
            record = step_record(step) if number == len(spans) - 1 else step_record(step, loss=99.0)
            events.write(record)
            if step % 10 == 0:
                events.write(evaluation_record(step))
        events.close()
    return events.path


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty", "no dataset"])
def test_a_damaged_file_is_set_aside_and_built_again_from_the_events(tmp_path, damage):
    path, told = tmp_path / "metrics.h5", []
    written(path, 1, 57)
    content = path.read_bytes()
    if damage == "no dataset":
        with h5py.File(path, "r+") as file:
            del file["training/loss"]
        damaged = path.read_bytes()
    else:
        damaged = {"garbage": b"#" * 3000, "cut": content[: len(content) // 2], "empty": b""}[damage]
    path.write_bytes(damaged)
    (tmp_path / "metrics.h5.damaged-1").write_bytes(b"from before")
    events = log(tmp_path / "events", range(1, 60), range(1, 55))
    sink(path, 42, events=events, report=told.append).close()
    assert_rows(read_metrics(path), 42)
    assert (tmp_path / "metrics.h5.damaged-2").read_bytes() == damaged
    assert len(told) == 1 and "metrics.h5.damaged-2" in told[0]
    assert_rows(written(path, 43, 50, resume_step=42), 50)


def test_a_batch_lost_with_a_killed_writer_is_taken_from_the_events(tmp_path):
    written(tmp_path / "metrics.h5", 1, 31)
    sink(tmp_path / "metrics.h5", 42, events=log(tmp_path / "events", range(1, 50))).close()
    assert_rows(read_metrics(tmp_path / "metrics.h5"), 42)


def test_flipped_bits_never_stop_a_run(tmp_path):
    path = tmp_path / "metrics.h5"
    written(path, 1, 57)
    content, events = path.read_bytes(), log(tmp_path / "events", range(1, 58))
    for seed in range(30):
        chance = random.Random(seed)
        damaged = bytearray(content)
        for _ in range(20):
            damaged[chance.randrange(min(len(damaged), 30_000))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        sink(path, 42, events=events, report=lambda message: None).close()
        assert len(read_metrics(path)["training/step"]) == 42


def test_a_file_of_another_model_or_format_is_set_aside(tmp_path):
    path, told = tmp_path / "metrics.h5", []
    written(path, 1, 5)
    Hdf5Sink(path, 4, ["one"], 5, report=told.append).close()
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = 9
    Hdf5Sink(path, 4, ["one"], 5, report=told.append).close()
    assert "other layers" in told[0] and "format 9" in told[1]
    assert sorted(os.listdir(tmp_path)) == ["metrics.h5", "metrics.h5.damaged-1", "metrics.h5.damaged-2"]


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        sink(tmp_path / "file" / "metrics.h5")


def test_a_file_open_in_another_run_is_left_alone(tmp_path):
    path = tmp_path / "metrics.h5"
    holder = running_writer(path)
    assert holder.stdout.readline() == b"going\n"
    with pytest.raises(UserError, match="written by another process"):
        sink(path)
    holder.kill()
    holder.communicate()


WRITES_FOR_EVER = textwrap.dedent(f"""
    import itertools, sys
    sys.path.insert(0, {os.path.dirname(__file__)!r})
    from pathlib import Path
    from metrics_records import LAYERS, step_record
    from ryzen_mpi.metrics.hdf5 import Hdf5Sink
    sink = Hdf5Sink(Path(sys.argv[1]), 4, LAYERS)
    print("going", flush=True)
    for step in itertools.count(1):
        if step % 20 == 0:  # 19 rows written before are waiting
            print(step - 20, flush=True)
        sink.write(step_record(step))
""")


def running_writer(path: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WRITES_FOR_EVER, path], env=ENVIRONMENT, stdout=subprocess.PIPE)


def test_a_writer_killed_at_any_moment_leaves_a_readable_file(tmp_path):
    chance = random.Random(3)
    for number in range(12):
        path = tmp_path / f"{number}.h5"
        writer = running_writer(path)
        writer.stdout.readline()
        time.sleep(chance.uniform(0, 0.3))
        writer.kill()
        flushed = [int(line) for line in writer.communicate()[0].split()]
        metrics = read_metrics(path)
        rows = len(metrics["training/step"])
        assert rows >= max(flushed, default=0)
        assert metrics["training/step"].tolist() == list(range(1, rows + 1))
        assert metrics["training/samples"].tolist() == list(range(64, 64 * (rows + 1), 64))
        assert metrics["communication/rank_communication_s"][:, 0].tolist() == list(range(1, rows + 1))
        half = rows // 2
        assert len(written(path, half + 1, half + 3, resume_step=half)["training/loss"]) == half + 3


@pytest.mark.parametrize("done", [0, 1, 3, 7, 12])
def test_a_writer_killed_between_two_writes_of_a_flush_loses_none_of_it(done, tmp_path, monkeypatch):
    path = tmp_path / "metrics.h5"
    target = Hdf5Sink(path, 4, LAYERS)
    for step in range(1, 21):
        target.write(step_record(step))

    def killed(disk, length, writes):
        for offset, data in writes[:done]:
            os.pwrite(disk._descriptor, data, offset)
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(SafeFile, "_apply", killed)
        with pytest.raises(OSError, match="killed"):
            for step in range(21, 41):
                target.write(step_record(step))
    target._file.close()  # HDF5 must not find its file gone when the interpreter ends
    target._disk.close()
    assert journal_path(path).exists()
    assert read_metrics(path)["training/step"].tolist() == list(range(1, 41))
    assert written(path, 41, 43, resume_step=40)["training/step"].tolist() == list(range(1, 44))
    assert not journal_path(path).exists()


def test_a_journal_cut_short_is_as_if_it_had_not_been_written(tmp_path):
    path = tmp_path / "metrics.h5"
    before = written(path, 1, 20)
    journal_path(path).write_bytes(b"ryzenj1\n" + bytes(100))
    assert read_metrics(path)["training/step"].tolist() == before["training/step"].tolist()


BEGUN_ON_A_FULL_DISK = """
import ctypes, errno, sys
from pathlib import Path
from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics import hdf5

def full(self):
    raise OSError(errno.ENOSPC, "No space left on device")

hdf5.SafeFile.settle = full
try:
    hdf5.Hdf5Sink(Path(sys.argv[1]), 2, ["a", "b"])
except UserError as error:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(error))  # somebody keeps it, and so the frames of its traceback
    print(error.message)
"""


def test_a_file_that_cannot_be_begun_is_refused_and_the_interpreter_ends_as_it_should(tmp_path):
    """HDF5 that finds such a file open at exit ends in a segmentation fault."""
    command = [sys.executable, "-c", BEGUN_ON_A_FULL_DISK, str(tmp_path / "metrics.h5")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and "No space left on device" in done.stdout, (done.returncode, done.stderr)


NEVER_CLOSED = """
import ctypes, sys
from pathlib import Path
from ryzen_mpi.metrics.hdf5 import Hdf5Sink

sink = Hdf5Sink(Path(sys.argv[1]), 2, ["a", "b"])
ctypes.pythonapi.Py_IncRef(ctypes.py_object(sink))
"""


def test_a_file_that_nobody_closes_is_readable_and_the_interpreter_ends_as_it_should(tmp_path):
    path = tmp_path / "metrics.h5"
    command = [sys.executable, "-c", NEVER_CLOSED, str(path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_metrics(path)["training/step"].tolist() == []
