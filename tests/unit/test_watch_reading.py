"""A run is followed as it grows: what is in memory is what stands in metrics.h5 and the event log, whatever happens."""

from __future__ import annotations

import json
import math
import os
import shutil

import numpy as np
import pytest
from metrics_records import LAYERS, evaluation_record, step_record

from ryzen_mpi.metrics.events import EventLog
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.hdf5_file import SafeFile
from ryzen_mpi.metrics.reader import read_metrics
from ryzen_mpi.metrics.record import SampleRecord
from ryzen_mpi.metrics.signals import SIGNALS
from ryzen_mpi.watch import curves, follow, source
from ryzen_mpi.watch.curves import Since
from ryzen_mpi.watch.follow import PLAIN, RANKED, Followed
from ryzen_mpi.watch.logs import Tail
from ryzen_mpi.watch.source import Source
from ryzen_mpi.watch.table import KEPT_ROWS, Table


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(source, "PAUSE_S", 0.0)
    monkeypatch.setattr(source, "OTHERS_S", 0.0)


class Run:
    """A run directory with its writers, and the source that follows it."""

    def __init__(self, path, resume: int = 0):
        self.path = path
        self.open(resume)
        self.source = Source(path)

    def open(self, resume: int, ranks: int = 4):
        self.ranks = ranks
        self.log = EventLog(self.path / "events", 0)
        self.log.event("start", "rank 0", step=resume, ranks=ranks)
        self.sink = Hdf5Sink(self.path / "metrics.h5", ranks, LAYERS, resume, events=self.log.path)

    def train(self, first: int, last: int, **changes):
        for step in range(first, last + 1):
            one = step_record(step, self.ranks, **{name: make(step) for name, make in changes.items()})
            self.sink.write(one)
            self.log.write(one)

    def look(self) -> Table:
        self.source.look()
        return self.source.table

    def equals_the_file(self) -> bool:
        metrics, table = read_metrics(self.path / "metrics.h5"), self.look()
        plain = all(np.array_equal(table[n], metrics[f"{SIGNALS[n].group}/{n}"], equal_nan=True) for n in PLAIN)
        return plain and all(
            np.array_equal(table[n], metrics[f"{SIGNALS[n].group}/{n}"][-KEPT_ROWS:], equal_nan=True) for n in RANKED
        )


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def test_what_is_in_memory_equals_the_file_after_every_batch(run):
    for first in range(1, 200, 27):
        run.train(first, first + 26)
        run.sink.flush()
        assert run.equals_the_file()
    assert run.source.generation == 0 and len(run.source.table) == 216


def test_a_step_is_seen_before_its_batch_is_in_the_file(run):
    run.train(1, 27)
    assert run.look().last_step == 27 and len(read_metrics(run.path / "metrics.h5")["training/step"]) < 27
    run.train(28, 29, loss=lambda _: math.nan)
    table = run.look()
    assert table.last_step == 29 and math.isnan(table["loss"][-1]) and math.isnan(table["rank_cpu_share"][-1][0])
    run.sink.flush()
    assert run.equals_the_file()


def test_only_what_is_new_is_read(run, monkeypatch):
    run.train(1, 100)
    run.sink.flush()
    run.look()
    read, column = [], follow._column

    def counted(file, name, first, last):
        read.append(last - first)
        return column(file, name, first, last)

    monkeypatch.setattr(follow, "_column", counted)
    run.look()
    assert read == []
    run.train(101, 120)
    run.look()
    assert set(read) == {20}


def test_a_run_that_goes_back_takes_its_later_steps_along(run):
    run.train(1, 50)
    run.look()
    run.sink.close()
    run.open(resume=30)
    run.train(31, 45, loss=lambda step: 100.0 + step)
    table = run.look()
    assert table["step"].tolist() == list(range(1, 46)) and table["loss"][-1] == 145.0
    assert run.source.generation > 0
    run.sink.flush()
    assert run.equals_the_file()


def test_a_run_that_went_back_further_than_a_look_saw_is_read_again(run):
    """More rows than before, and yet not the same run of them."""
    run.train(1, 50)
    run.look()
    run.sink.close()
    run.open(resume=30)
    run.train(31, 90, wall_time_s=lambda step: 2e9 + step)
    run.sink.flush()
    assert run.equals_the_file() and run.source.generation == 1


def test_steps_trained_again_between_two_looks_are_another_time(run):
    """A page that has the old ones must not keep them, though no row of metrics.h5 went away."""
    run.train(1, 40)
    run.sink.flush()
    run.train(41, 50)
    assert run.look().last_step == 50 and run.source.generation == 0
    run.sink._waiting.clear()  # as a killed writer leaves it
    run.sink.close()
    run.open(resume=45)
    run.train(46, 70, wall_time_s=lambda step: 2e9 + step)
    run.sink.flush()
    assert run.equals_the_file() and run.source.generation > 0


def test_an_old_end_in_the_log_is_not_taken_for_the_newest_steps(tmp_path):
    first = Run(tmp_path / "run")
    first.train(1, 80)
    first.sink.close()
    first.open(resume=30)
    first.train(31, 45)
    first.sink.flush()
    late = Source(first.path)
    late.look()
    assert late.table["step"].tolist() == list(range(1, 46))


def test_more_ranks_than_before_widen_the_rows(run):
    run.train(1, 10)
    run.look()
    run.sink.close()
    run.open(resume=10, ranks=6)
    run.train(11, 12)
    table = run.look()
    assert table["rank_step_s"].shape == (12, 6) and np.isnan(table["rank_step_s"][0, 4:]).all()


def test_evaluations_and_samples_come_from_the_file_and_from_the_log(run):
    run.train(1, 20)
    run.sink.write(evaluation_record(20))
    run.log.write(evaluation_record(20))
    run.sink.flush()
    assert run.look() and run.source.evaluations == {20: (6 / 20, 1 / 20)}
    heat = (61.0, math.nan, 63.5, 60.0)
    run.log.write(SampleRecord(21, 2e9, {"allreduce_p50_s": 0.25, "acts": math.nan}, {"rank_temperature_c": heat}))
    run.log.write(evaluation_record(21))
    run.look()
    assert np.array_equal(run.source.sample["rank_temperature_c"], heat, equal_nan=True)
    assert run.source.sample["allreduce_p50_s"] == 0.25 and math.isnan(run.source.sample["acts"])
    assert sorted(run.source.evaluations) == [20, 21]


def test_without_a_file_the_log_stands_in_and_it_is_said(run):
    run.train(1, 40)
    run.sink.flush()
    run.look()
    (run.path / "metrics.h5").unlink()
    table = run.look()
    assert table["step"].tolist() == list(range(1, 41)) and "no metrics.h5" in run.source.metrics.problem


@pytest.mark.parametrize("content", [b"", b"not HDF5", "half"])
def test_a_damaged_file_is_survived_and_said(run, content):
    run.train(1, 40)
    run.sink.flush()
    run.look()
    file = run.path / "metrics.h5"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    assert run.look().last_step == 40
    assert "cannot be read" in run.source.metrics.problem
    file.write_bytes(whole)
    assert run.equals_the_file() and run.source.metrics.problem == ""


def test_a_file_between_journal_and_file_is_read_as_it_will_be(run, monkeypatch):
    """As a writer killed half way through leaves it."""
    run.train(1, 20)
    run.sink.flush()
    run.train(21, 39)

    def torn(self, length, writes):
        for offset, data in writes[:2]:
            os.pwrite(self._descriptor, data[: len(data) // 2], offset)
        raise OSError("killed")

    monkeypatch.setattr(SafeFile, "_apply", torn)
    with pytest.raises(OSError, match="killed"):
        run.sink.flush()
    monkeypatch.undo()
    followed = Followed(run.path / "metrics.h5")
    news = followed.look()
    assert news is not None and news.plain["step"].tolist() == list(range(1, 40)) and followed.problem == ""


def test_a_directory_that_vanishes_keeps_its_last_figures(run):
    run.train(1, 25)
    run.look()
    shutil.rmtree(run.path)
    run.look()
    assert not run.source.exists


def test_a_torn_line_waits_for_its_end_and_a_torn_end_is_passed_over(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\ntw")
    tail = Tail(log)
    assert tail.read() == [b"one"] and tail.read() == []
    with log.open("ab") as file:
        file.write(b"o\nthree\n")
    assert tail.read() == [b"two", b"three"]
    log.write_bytes(b"anew\n")
    assert tail.read() == [b"anew"]
    log.unlink()
    assert tail.read() == [] and tail.size == 0


def test_lines_that_are_none_are_passed_over(run):
    run.train(1, 3)
    with run.log.path.open("ab") as file:
        file.write(
            b'{"event":{"dataset":"ryzen_mpi.metrics","action":"step"},"ryzen":{"step":4}}\n{"step":9,"ryzen_mpi.\n'
        )
        file.write(b'{"event":{"action":3}}\n[]\n\xff\xfe\n' + b"[" * 100_000 + b"\n")
    run.train(4, 5)
    assert run.look()["step"].tolist() == [1, 2, 3, 4, 5]


def test_following_writes_nothing_and_locks_nothing(run):
    run.train(1, 30)

    def listing():
        return sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in run.path.rglob("*") if p.is_file())

    before = listing()
    run.look()
    assert listing() == before
    run.sink.close()
    run.open(resume=30)  # a run that starts while it is watched is not turned away
    run.look()


# -- points ------------------------------------------------------------------------------------------------------------


def filled(rows: int) -> Table:
    table = Table(PLAIN, RANKED)
    grow(table, rows)
    return table


def grow(table: Table, rows: int) -> None:
    step = np.arange(len(table) + 1, len(table) + rows + 1, dtype=float)
    rng = np.random.default_rng(len(table))
    plain = {name: step for name in PLAIN} | {
        "loss": rng.random(rows),
        "samples": 64 * step,
        "step_s": 0.1 + rng.random(rows),
        "communication_s": 0.01 * rng.random(rows),
        "ranks": np.full(rows, 2.0),
    }
    table.extend(plain, {name: np.ones((min(rows, KEPT_ROWS), 2)) for name in RANKED})


class Page:
    """What the page keeps, as watch.js does it."""

    def __init__(self):
        self.points, self.base, self.since, self.sent = None, 0, "", 0

    def take(self, table, window=0, generation=0):
        told = json.loads(
            json.dumps(curves.curves(table, generation, Since.parse(self.since), window), allow_nan=False)
        )
        self.sent = len(told["columns"]["step"])
        if told["fresh"] or self.points is None:
            self.points, self.base = told["columns"], told["first"]
        else:
            keep, drop = told["first"] - self.base, max(0, told["begin"] - self.base)
            for name, column in told["columns"].items():
                self.points[name] = (self.points[name][:keep] + column)[drop:]
            self.base += drop
        self.since = told["since"]


@pytest.mark.parametrize("window", [0, 100])
def test_points_in_pieces_are_the_points_at_once(window):
    table, page, whole = filled(3), Page(), Page()
    for rows in (1, 1, 40, 60, 900, 30, 1, 5, 3000, 2, 1):
        page.take(table, window)
        grow(table, rows)
    page.take(table, window)
    whole.take(table, window)
    assert page.points == whole.points and page.since == whole.since
    assert page.sent < 5 < len(page.points["step"]) <= (window or 1024)


def test_points_of_a_page_that_saw_another_time_are_sent_anew():
    table, page = filled(50), Page()
    page.take(table)
    table.cut(20)
    grow(table, 10)
    page.take(table, generation=1)
    assert page.points["step"] == list(range(1, 31)) and page.sent == 30


def test_a_million_steps_are_few_points_and_a_spike_of_one_step_is_among_them():
    table = filled(1_000_000)
    table["loss"][777_777] = 99.0
    table["loss"][5] = math.nan
    page = Page()
    page.take(table)
    assert 400 < len(page.points["step"]) <= 1024 and max(page.points["loss_high"]) == 99.0
    assert page.points["step"][-1] == 1_000_000
    grow(table, 1)
    page.take(table)
    assert page.sent <= 2


def test_the_rate_of_a_point_is_its_samples_over_its_seconds():
    table, page = filled(2048), Page()
    page.take(table)
    assert len(page.points["rate"]) == 1024
    assert page.points["rate"][3] == pytest.approx(128 / table["step_s"][6:8].sum())
    assert page.points["share"][3] == pytest.approx(
        100 * table["communication_s"][6:8].sum() / table["step_s"][6:8].sum()
    )


@pytest.mark.parametrize(
    "text", ["", "x", "1.2", "1.0.5.0.9", "-1.0.0.0", "1.0.99999999999999.0", "../..", "1.0.5.0\n"]
)
def test_what_a_page_cannot_have_been_given_counts_as_nothing(text):
    assert Since.parse(text) == Since()
