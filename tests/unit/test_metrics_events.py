"""The event log: ECS lines, torn lines, full disks, and records that come back as they were."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime

import numpy as np
import pytest
from metrics_records import ENVIRONMENT, LAYERS, evaluation_record, step_record

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.events import EventLog, read_events, read_records
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.reader import read_metrics


def test_lines_are_ecs(tmp_path):
    log = EventLog(tmp_path / "events", 3, {"jobid": 17, "run": "r1", "node": "n2"})
    figures = {"step": 5, "bytes": np.int64(12), "share": np.float32(0.5)}
    log.event("checkpoint", "saved 100 % of it", dataset="checkpoint", **figures)
    log.event("rank_lost", "rank 2 is gone", "error", ranks=np.array([2, 3]), why=None, path=tmp_path)
    log.close()
    first, second = (json.loads(line) for line in (tmp_path / "events" / "rank-0003.jsonl").read_text().splitlines())
    assert abs(datetime.fromisoformat(first["@timestamp"]).timestamp() - time.time()) < 60
    assert first["log.level"] == "info" and second["log.level"] == "error"
    assert first["message"] == "saved 100 % of it" and first["ecs.version"]
    assert first["event"] == {"action": "checkpoint", "dataset": "ryzen_mpi.checkpoint"}
    assert first["labels"] == {"rank": "3", "jobid": "17", "run": "r1", "node": "n2"}
    assert first["service"] == {"name": "ryzen_mpi"} and first["process"] == {"pid": os.getpid()}
    assert first["ryzen"] == {"step": 5, "bytes": 12, "share": 0.5}
    assert second["ryzen"] == {"ranks": [2, 3], "path": str(tmp_path)}


def test_records_come_back_as_they_were_and_every_line_is_strict_json(tmp_path):
    records = [step_record(step, ranks=2) for step in range(1, 8)]
    records.append(step_record(8, loss=math.nan, gradient_norm=math.inf, rank_rss_bytes=(1.0, math.nan)))
    records.append(evaluation_record(8))
    log = EventLog(tmp_path, 0)
    for record in records:
        log.write(record)
    log.event("step", "not a record though it is called one", step="begin")
    log.flush()
    log.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    for line in log.path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    assert list(map(repr, read_records(log.path))) == list(map(repr, records))


def test_a_log_from_before_a_figure_was_taken_is_read_without_it(tmp_path):
    log = EventLog(tmp_path, 0)
    log.write(step_record(5))
    line = json.loads(log.path.read_text())
    for name in ("rank_sent_bytes", "compression_ratio"):
        del line["ryzen"][name]
    log.path.write_text(json.dumps(line) + "\n")
    (record,) = read_records(log.path)
    assert record.rank_sent_bytes == () and math.isnan(record.compression_ratio)
    assert repr(
        dataclasses.replace(record, rank_sent_bytes=step_record(5).rank_sent_bytes, compression_ratio=1.625)
    ) == (repr(step_record(5)))
    sink = Hdf5Sink(tmp_path / "metrics.h5", 4, LAYERS, 5, events=log.path)
    sink.close()
    sent = read_metrics(tmp_path / "metrics.h5")["communication/rank_sent_bytes"]
    assert sent.shape == (1, 4) and np.isnan(sent).all()


def test_an_odd_figure_is_told_and_the_line_kept(tmp_path):
    log = EventLog(tmp_path, 0)
    log.event("loss", "diverged", "warning", loss=math.inf, step=3)
    assert next(read_events(log.path))["ryzen"] == {"step": 3, "not_finite": ["loss=inf"]}


def test_logs_do_not_touch_the_global_loggers_or_each_other(tmp_path, capfd):
    before = set(logging.Logger.manager.loggerDict)
    logs = [EventLog(tmp_path, rank) for rank in (0, 1)]
    for log in logs:
        log.event("start", "starts")
    assert set(logging.Logger.manager.loggerDict) == before
    assert [len(list(read_events(log.path))) for log in logs] == [1, 1]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("tail", ['{"@timestamp":"2026', "\0\0\0", '{"a":1}\n\xff\xfe{', "[1]"])
def test_a_torn_line_is_passed_over_and_not_joined_to_the_next(tmp_path, tail):
    log = EventLog(tmp_path, 0)
    log.event("start", "first attempt")
    log.close()
    with log.path.open("ab") as file:
        file.write(tail.encode("latin-1"))
    assert next(read_events(log.path))["message"] == "first attempt"
    again = EventLog(tmp_path, 0)
    again.event("start", "second attempt")
    again.close()
    messages = [event["message"] for event in read_events(log.path) if "message" in event]
    assert messages == ["first attempt", "second attempt"]


def test_a_writer_killed_at_any_moment_loses_at_most_the_line_it_wrote(tmp_path):
    source = textwrap.dedent("""
        import itertools, sys
        from pathlib import Path
        from ryzen_mpi.metrics.events import EventLog
        log = EventLog(Path(sys.argv[1]), 0)
        for number in itertools.count():
            log.event("count", "x" * 200, number=number)
            if number % 100 == 0:
                print(number, flush=True)
    """)
    chance = random.Random(5)
    for attempt in range(10):
        directory = tmp_path / str(attempt)
        writer = subprocess.Popen([sys.executable, "-c", source, directory], env=ENVIRONMENT, stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))
        writer.kill()
        told = max(map(int, writer.communicate()[0].split()), default=0)
        numbers = [event["ryzen"]["number"] for event in read_events(directory / "rank-0000.jsonl")]
        assert numbers == list(range(len(numbers))) and len(numbers) > told


def test_a_full_disk_is_told_once_loses_lines_and_says_how_many(tmp_path):
    told = []
    log = EventLog(tmp_path, 0, report=told.append)
    log.event("start", "fits")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 10, limits[1]))
        for _ in range(3):
            log.event("more", "does not fit")
        with pytest.raises(OSError):
            log.write(step_record(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    log.event("again", "fits again")
    log.event("on", "and on")
    log.close()
    assert len(told) == 1 and str(log.path) in told[0]
    events = list(read_events(log.path))
    assert [event["message"] for event in events] == ["fits", "fits again", "and on"]
    assert events[1]["ryzen"] == {"lines_lost_before": 3} and "ryzen" not in events[2]


def test_what_cannot_be_opened_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be opened"):
        EventLog(tmp_path / "file", 0)
    with pytest.raises(UserError, match="cannot be read"):
        list(read_events(tmp_path / "none.jsonl"))


def test_a_process_that_is_no_rank_has_a_log_under_its_name(tmp_path):
    log = EventLog(tmp_path, "supervisor", {"run": "r1"})
    log.event("attempt", "attempt 1", epoch=1)
    log.close()
    (event,) = read_events(tmp_path / "supervisor.jsonl")
    assert event["labels"] == {"run": "r1"} and event["ryzen"] == {"epoch": 1}
