"""The streams of logs/: ECS lines a rank, rotated by size, and disks that are full."""

from __future__ import annotations

import copy
import json
import math
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from ecs_schema import FIELDS, problems
from metrics_records import evaluation_record, sample_record, step_record

from ryzen_mpi.metrics.events import EventLog, read_events
from ryzen_mpi.metrics.logs import STREAMS, RankLogs, log_file

LABELS = {"run": "r1", "node": "n2", "jobid": 17}


def logs(folder: Path, rank: int = 0, most_bytes: int = 1 << 20, report=pytest.fail) -> RankLogs:
    return RankLogs(folder, rank, LABELS, most_bytes, report)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def everything(folder: Path) -> dict[str, list[dict]]:
    """Lines of every stream and of the event log, of every shape there is, by their file."""
    streams = logs(folder / "logs", 3)
    figures = {"step": 5, "rank_step_s": 0.25, "bytes": np.int64(12), "loss": math.nan, "last": [1.0, math.inf]}
    streams.performance(**figures, ranks=np.array([2, 3]), path=folder, share=np.float32(0.5), ok=True, none=None)
    streams.communication(**figures)
    streams.communication()
    for level in ("info", "warning", "error", "critical"):
        streams.fault("skip", "step 5: 100 % of it skipped", level, rule="spike", evidence={"z": 7.5}, **figures)
    streams.close()
    for writer in (0, "supervisor"):
        events = EventLog(folder / "events", writer, LABELS)
        for record in (step_record(5), step_record(6, loss=math.inf), evaluation_record(5), sample_record(5)):
            events.write(record)
        for level in ("debug", "info", "warning", "error", "critical"):
            events.event("act", "what the monitor did", level, "health", **figures)
        events.event("end", "nothing to tell")
        events.close()
    return {path.name: lines_of(path) for path in sorted(folder.rglob("*.jsonl"))}


def test_every_line_of_every_log_is_ecs(tmp_path):
    files = everything(tmp_path)
    assert sorted(files) == [
        "communication-0003.jsonl",
        "fault-0003.jsonl",
        "performance-0003.jsonl",
        "rank-0000.jsonl",
        "supervisor.jsonl",
    ]
    assert sum(map(len, files.values())) == 1 + 2 + 4 + 2 * 10
    assert [problem for lines in files.values() for line in lines for problem in problems(line)] == []


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        (("event", "duration_s"), 1.5, "event.duration_s=1.5: no field of ECS"),
        (("loss",), 1.5, "loss=1.5: no field of ECS"),
        (("process", "pid"), "17", "process.pid='17': no long"),
        (("@timestamp",), 1.7e9, "@timestamp=1700000000.0: no date"),
        (("event", "kind"), "figure", "event.kind='figure': not an allowed value"),
        (("event", "category"), "network", "event.category='network': no list of keywords"),
        (("labels", "rank"), 3, "labels.rank=3: no keyword"),
        (("ryzen", "mixed"), [1, "a"], "ryzen.mixed=[1, 'a']: of kinds ['number', 'str']"),
        (("event", "action"), None, "event.action=None: no keyword"),
    ],
)
def test_the_schema_refuses_what_is_not_ecs(tmp_path, where, value, told):
    line = copy.deepcopy(everything(tmp_path)["communication-0003.jsonl"][0])
    *outer, last = where
    inner = line
    for name in outer:
        inner = inner[name]
    inner[last] = value
    assert problems(line) == [told]


def test_every_listed_field_of_ecs_is_in_use(tmp_path):
    def names(value, prefix=""):
        nested = isinstance(value, dict)
        return {n for key, v in value.items() for n in names(v, f"{prefix}.{key}")} if nested else {prefix[1:]}

    used = {name for lines in everything(tmp_path).values() for line in lines for name in names(line)}
    assert {name for name in used if not name.startswith(("ryzen.", "labels."))} == set(FIELDS)


def test_lines_say_who_wrote_them_and_which_stream_they_belong_to(tmp_path):
    files = everything(tmp_path)
    for stream in STREAMS:
        for line in files[f"{stream}-0003.jsonl"]:
            assert line["event"]["dataset"] == line["log"]["logger"] == f"ryzen_mpi.{stream}"
            assert line["labels"] == {"rank": "3", "run": "r1", "node": "n2", "jobid": "17"}
            assert line["host"] == {"name": "n2"} and line["process"] == {"pid": os.getpid()}
    performance, fault = files["performance-0003.jsonl"][0], files["fault-0003.jsonl"][2]
    assert performance["event"]["kind"] == "metric" and performance["message"] == "performance after step 5"
    assert performance["ryzen"]["rank_step_s"] == 0.25 and performance["ryzen"]["not_finite"] == ["loss=nan"]
    assert (fault["event"]["action"], fault["log.level"]) == ("skip", "error")
    assert fault["ryzen"]["rule"] == "spike" and fault["ryzen"]["evidence"] == {"z": 7.5}


def test_a_stream_has_no_file_before_its_first_line(tmp_path):
    streams = logs(tmp_path / "logs")
    streams.performance(step=1)
    assert os.listdir(tmp_path / "logs") == ["performance-0000.jsonl"]


def test_files_rotate_by_size_and_the_newest_four_stay(tmp_path):
    streams = logs(tmp_path, most_bytes=4096)
    for step in range(1, 101):
        streams.performance(step=step)
    live = log_file(tmp_path, "performance", 0)
    files = [live.with_name(f"{live.name}.{number}") for number in (3, 2, 1)] + [live]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 4096 for file in files)
    assert all(file.stat().st_size > 3500 for file in files[:3])
    steps = [line["ryzen"]["step"] for file in files for line in lines_of(file)]
    assert steps == list(range(steps[0], 101)) and len(steps) > 20


def test_a_later_attempt_goes_on_in_the_same_file_and_after_a_torn_line(tmp_path):
    first = logs(tmp_path)
    first.fault("skip", "of the first attempt")
    first.close()
    with log_file(tmp_path, "fault", 0).open("a") as file:
        file.write('{"@timestamp":"20')
    second = logs(tmp_path)
    second.fault("skip", "of the second")
    messages = [event["message"] for event in read_events(log_file(tmp_path, "fault", 0))]
    assert messages == ["of the first attempt", "of the second"]


def test_a_line_larger_than_a_file_may_be_is_written_all_the_same(tmp_path):
    streams = logs(tmp_path, most_bytes=4096)
    for _ in range(3):
        streams.fault("skip", "x" * 5000)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"fault-0000.jsonl{end}" for end in ("", ".1", ".2")]


def test_a_full_disk_is_told_once_counted_and_over_when_there_is_space_again(tmp_path):
    told = []
    streams = logs(tmp_path, report=told.append)
    streams.performance(step=1)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for steps in ((2, 3, 4), (6, 7)):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (log_file(tmp_path, "performance", 0).stat().st_size, limits[1]))
            for step in steps:
                streams.performance(step=step)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        streams.performance(step=steps[-1] + 1)
    signal.signal(signal.SIGXFSZ, handler)
    streams.close()
    figures = [line["ryzen"] for line in lines_of(log_file(tmp_path, "performance", 0))]
    assert figures == [{"step": 1}, {"step": 5, "lines_lost_before": 3}, {"step": 8, "lines_lost_before": 2}]
    assert len(told) == 1 and "performance-0000.jsonl: lines are being lost" in told[0]


def test_a_folder_that_cannot_be_made_is_told_once_a_stream_and_stops_nothing(tmp_path):
    told = []
    (tmp_path / "logs").write_text("in the way")
    streams = logs(tmp_path / "logs", report=told.append)
    for step in range(3):
        streams.performance(step=step)
        streams.communication(step=step)
    (tmp_path / "logs").unlink()
    streams.performance(step=3)
    streams.close()
    streams.close()
    assert len(told) == 2
    (line,) = lines_of(log_file(tmp_path / "logs", "performance", 0))
    assert line["ryzen"] == {"step": 3, "lines_lost_before": 3}
