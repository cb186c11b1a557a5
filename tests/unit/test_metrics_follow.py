"""`ryzen-mpi metrics --follow`: rows as they come, through resumes, damaged files and a late start, until the end."""

from __future__ import annotations

import csv
import dataclasses
import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from metrics_records import ENVIRONMENT, LAYERS, evaluation_record, sample_record, step_record

from ryzen_mpi.commands.metrics import metrics_command
from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics import follow
from ryzen_mpi.metrics.follow import Follower
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.hdf5_file import SafeFile
from ryzen_mpi.rundir import RunDirectory


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(follow, "POLL_S", 0.01)


def train(run: Path, first: int, last: int, later_s: float = 0.0, ranks: int = 2) -> Hdf5Sink:
    """Writes steps first..last as a run does that goes on from first - 1, and lets the file open."""
    sink = Hdf5Sink(run / "metrics.h5", ranks, LAYERS, first - 1)
    for step in range(first, last + 1):
        if step % 5 == 0:
            sample = sample_record(step, ranks)
            sink.write(dataclasses.replace(sample, wall_time_s=sample.wall_time_s + later_s))
        sink.write(step_record(step, ranks, wall_time_s=1.7e9 + step + later_s))
    sink.flush()
    return sink


def steps(news: follow.News | None, table: str = "training") -> list[int] | None:
    return None if news is None else news.metrics[f"{table}/step"][news.rows].tolist()


def test_rows_come_once_and_again_where_the_run_went_back(tmp_path):
    follower = Follower(tmp_path / "metrics.h5", "training")
    assert follower.look() is None  # the run is starting: no file yet
    sink = train(tmp_path, 1, 3)
    assert steps(follower.look()) == [1, 2, 3]
    assert follower.look() is None
    sink.write(step_record(4, 2))
    assert follower.look() is None  # waits in the writer
    sink.flush()
    assert steps(follower.look()) == [4]
    sink.close()
    again = train(tmp_path, 3, 4, later_s=60.0)
    news = follower.look()
    assert news.back == 2 and steps(news) == [3, 4]
    again.close()


def test_samples_are_followed_as_the_steps_are(tmp_path):
    follower = Follower(tmp_path / "metrics.h5", "samples")
    train(tmp_path, 1, 12).close()
    assert steps(follower.look(), "samples") == [5, 10]
    train(tmp_path, 13, 14).close()
    assert follower.look() is None
    train(tmp_path, 8, 20, later_s=60.0).close()
    news = follower.look()
    assert news.back == 5 and steps(news, "samples") == [10, 15, 20]


def test_a_file_that_is_half_written_or_set_aside_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "metrics.h5"
    train(tmp_path, 1, 10).close()
    follower = Follower(path, "training")
    follower.look()
    path.rename(tmp_path / "metrics.h5.damaged-1")
    assert follower.look() is None
    path.write_bytes(b"half of")
    assert follower.look() is None
    path.unlink()
    train(tmp_path, 1, 12).close()
    assert steps(follower.look()) == [11, 12]
    path.write_bytes(b"for ever")
    monkeypatch.setattr(follow, "PATIENCE_S", 0.0)
    with pytest.raises(UserError, match="damaged"):
        follower.look()


def test_a_writer_killed_within_a_flush_is_followed_through_its_journal(tmp_path, monkeypatch):
    sink = train(tmp_path, 1, 10)
    follower = Follower(sink.path, "training")
    assert steps(follower.look()) == list(range(1, 11))
    with monkeypatch.context() as patch:
        patch.setattr(SafeFile, "_apply", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        sink.write(step_record(11, 2))
        with pytest.raises(OSError, match="killed"):
            sink.flush()
    sink._file.close()
    sink._disk.close()
    assert steps(follower.look()) == [11]


def followed(*arguments: object) -> str:
    result = CliRunner().invoke(metrics_command, [*map(str, arguments), "--follow"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def complete(run: Path) -> None:
    RunDirectory(run).write_complete({})


def test_a_complete_run_is_shown_to_its_end(tmp_path):
    sink = train(tmp_path, 1, 30)
    sink.write(evaluation_record(30))
    sink.close()
    complete(tmp_path)
    lines = followed(tmp_path).splitlines()
    assert lines[0].split()[:2] == ["step", "loss"] and lines[1].split()[0] == "nat/token"
    assert [int(line.split()[0]) for line in lines[2:-1]] == list(range(1, 31))
    assert lines[-1] == "-- complete; held-out data after step 30: loss 0.2000 nat/token, accuracy 3.33% --"
    assert len({len(line) for line in lines[2:-1]}) == 1
    assert followed(tmp_path / "metrics.h5", "--last", 2).splitlines()[2:] == lines[-3:]
    samples = followed(tmp_path, "--samples").splitlines()
    assert [int(line.split()[0]) for line in samples[2:-1]] == [5, 10, 15, 20, 25, 30]


def test_csv_that_is_followed_parses(tmp_path):
    train(tmp_path, 1, 30).close()
    complete(tmp_path)
    plain = CliRunner().invoke(metrics_command, [str(tmp_path), "--csv"]).output
    assert followed(tmp_path, "--csv") == plain
    samples = list(csv.DictReader(io.StringIO(followed(tmp_path, "--csv", "--samples"))))
    assert [int(row["step"]) for row in samples] == [5, 10, 15, 20, 25, 30]
    assert [float(row["rank_clock_hz.1"]) for row in samples] == [
        sample_record(step, 2).value("rank_clock_hz")[1] for step in range(5, 31, 5)
    ]


def test_what_is_no_run_is_refused_at_once(tmp_path):
    for path, told in ((tmp_path / "none", "no metrics at"), (tmp_path / "none" / "metrics.h5", "no metrics at")):
        with pytest.raises(UserError, match=told):
            followed(path)
    (tmp_path / "metrics.h5").write_bytes(b"something else")
    with pytest.raises(UserError, match="damaged"):
        followed(tmp_path)


def started(run: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ryzen_mpi", "metrics", str(run), "--follow", *options]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_pipe_gets_whole_lines_as_they_come_and_all_of_a_run_that_is_resumed(tmp_path):
    process = started(tmp_path)
    sink = train(tmp_path, 1, 5)
    lines = [process.stdout.readline() for _ in range(7)]
    assert [line.split()[0] for line in lines] == ["step", "nat/token", "1", "2", "3", "4", "5"]
    assert all(line.endswith("\n") for line in lines)
    sink.close()
    train(tmp_path, 4, 6, later_s=60.0).close()
    lines = [process.stdout.readline() for _ in range(4)]
    assert lines[0] == "-- back to step 3; what came after it is undone --\n"
    assert [line.split()[0] for line in lines[1:]] == ["4", "5", "6"]
    complete(tmp_path)
    rest, errors = process.communicate(timeout=60)
    assert (rest, errors, process.returncode) == ("-- complete --\n", "", 0)


def test_ctrl_c_ends_it_quietly(tmp_path):
    train(tmp_path, 1, 5).close()
    process = started(tmp_path, "--csv")
    lines = [process.stdout.readline() for _ in range(6)]
    assert lines[0].startswith("step,") and [line[0] for line in lines[1:]] == list("12345")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 0
