"""Reading metrics.h5 and `ryzen-mpi metrics`: tables, CSV, NaN, empty, missing and damaged files, and `| head`."""

from __future__ import annotations

import csv
import fcntl
import io
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from metrics_records import ENVIRONMENT, LAYERS, evaluation_record, sample_record, step_record
from rich.console import Console

from ryzen_mpi.commands.metrics import metrics_command
from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics import tables
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.reader import metrics_file, read_metrics
from ryzen_mpi.metrics.signals import of_kind


@pytest.fixture
def run(tmp_path):
    """A run directory with 30 steps, one of them without a number for a loss, and two evaluations."""
    sink = Hdf5Sink(tmp_path / "metrics.h5", 2, LAYERS)
    for step in range(1, 31):
        sink.write(step_record(step, 2, **({"loss": math.nan, "gradient_norm": math.inf} if step == 29 else {})))
    sink.write(evaluation_record(20))
    sink.write(evaluation_record(30))
    sink.close()
    return tmp_path


def shown(*arguments: object) -> str:
    result = CliRunner().invoke(metrics_command, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_shows_the_steps_and_the_held_out_figures(run):
    output = shown(run)
    assert "nat/token" in output and "held-out data after step 30: loss 0.2000 nat/token, accuracy 3.33%" in output
    lines = output.splitlines()
    assert sum("8192" in line for line in lines) == 30
    assert output == shown(run / "metrics.h5")


def test_last_shows_only_the_newest(run):
    lines = shown(run, "--last", 3).splitlines()
    rows = [line.split() for line in lines if "8192" in line]
    assert len(rows) == 3
    odd = next(line for line in lines if " 29 " in line)
    assert " - " in odd and " inf " in odd
    assert len(shown(run, "--csv", "--last", 100).splitlines()) == 31


def test_csv_parses_back_equal(run):
    rows = list(csv.DictReader(io.StringIO(shown(run, "--csv"))))
    records = [step_record(step, 2) for step in range(1, 31)]
    assert [float(row["wall_time_s"]) for row in rows] == [record.wall_time_s for record in records]
    assert [int(row["samples"]) for row in rows] == [record.samples for record in records]
    assert [float(row["rank_step_s.1"]) for row in rows] == [record.rank_step_s[1] for record in records]
    metrics = read_metrics(run / "metrics.h5")
    for name in ("loss", "gradient_norm", "skipped", "accuracy"):
        values = metrics[f"training/{name}"].tolist()
        assert [float(row[name]) for row in rows] == pytest.approx(values, rel=0, abs=0, nan_ok=True)
    assert math.isnan(float(rows[28]["loss"])) and float(rows[28]["gradient_norm"]) == math.inf
    for layer, name in enumerate(LAYERS):
        variances = [row[f"gradient_variance.{name}"] for row in rows]
        assert [v for v in variances if v != "nan"] == [repr(step / (layer + 1)) for step in range(5, 31, 5)]
    held_out = {row["step"]: float(row["held_out_loss"]) for row in rows if row["held_out_loss"] != "nan"}
    assert held_out == {"20": 6 / 20, "30": 6 / 30}


def test_a_terminal_gets_a_table_with_the_same_figures(run):
    plain = [line.split() for line in shown(run).splitlines() if "8192" in line]
    table = tables.table(read_metrics(run / "metrics.h5"), "training", slice(None))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    lines = console.export_text().splitlines()
    assert [line.replace("│", " ").split() for line in lines if "8192" in line] == plain
    assert "held-out data after step 30: loss 0.2000" in " ".join(lines)


def test_samples_are_shown_with_the_worst_rank_of_each_and_without_what_is_not_known(tmp_path):
    sink = Hdf5Sink(tmp_path / "metrics.h5", 3, LAYERS)
    for step in (7, 14):
        sink.write(sample_record(step, 3, without=("rank_temperature_c", "check_ring")))
    sink.close()
    head, folds, *rows = (line.split() for line in shown(tmp_path, "--samples").splitlines())
    assert head[:3] == ["step", "wall_time_s", "communication_share"] and "memory_available_bytes" in head
    assert folds == ["max", "min", "max", "min", "max", "max"]
    assert [row[0] for row in rows] == ["7", "14"] and all("-" in row for row in rows)
    assert len(shown(tmp_path, "--samples", "--last", 1).splitlines()) == 3
    table = tables.table(read_metrics(tmp_path / "metrics.h5"), "samples", slice(None))
    assert table.caption == "not known here: rank_temperature_c"
    column = next(column for column in tables.SHOWN["samples"] if column.signal.name == "rank_clock_hz")
    metrics = read_metrics(tmp_path / "metrics.h5")
    metrics["hardware/rank_clock_hz"] = np.array([[3e9, math.nan, 2.5e9], [math.nan] * 3])
    assert column.cells(metrics, "samples", slice(None)) == ["2.50 GHz", "-"]


def test_samples_as_csv_parse_back_equal(tmp_path):
    sink = Hdf5Sink(tmp_path / "metrics.h5", 3, LAYERS)
    samples = [sample_record(step, 3) for step in (7, 14, 21)]
    for sample in samples:
        sink.write(sample)
    sink.close()
    rows = list(csv.DictReader(io.StringIO(shown(tmp_path, "--samples", "--csv"))))
    assert [int(row["step"]) for row in rows] == [7, 14, 21]
    assert [float(row["wall_time_s"]) for row in rows] == [sample.wall_time_s for sample in samples]
    for signal in of_kind("sample"):
        assert [float(row[signal.name]) for row in rows] == [sample.value(signal.name) for sample in samples]
    for signal in of_kind("rank_sample"):
        for rank in range(3):
            told = [float(row[f"{signal.name}.{rank}"]) for row in rows]
            assert told == [sample.value(signal.name)[rank] for sample in samples]
    assert len(shown(tmp_path, "--samples", "--csv", "--last", 2).splitlines()) == 3


def test_a_file_without_steps_is_no_error(tmp_path):
    Hdf5Sink(tmp_path / "metrics.h5", 2, []).close()
    assert shown(tmp_path) == "no steps yet\n"
    assert shown(tmp_path, "--samples") == "no samples yet\n"
    assert shown(tmp_path, "--csv", "--last", 5).count("\n") == 1
    assert len(read_metrics(tmp_path / "metrics.h5")["training/loss"]) == 0


def test_what_cannot_be_read_is_a_user_error_that_says_why(run):
    with pytest.raises(UserError, match="no metrics at"):
        read_metrics(metrics_file(run / "elsewhere"))
    path = run / "metrics.h5"
    content = path.read_bytes()
    for damaged in (b"", b"text", content[:2000], content[: len(content) - 100], content[:3000] + b"\xff" * 3000):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            read_metrics(path)
    with pytest.raises(UserError):
        read_metrics(run / "events")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_rights_is_a_user_error(run):
    (run / "metrics.h5").chmod(0)
    with pytest.raises(UserError, match="may not be read"):
        read_metrics(run / "metrics.h5")


def test_a_file_never_at_rest_is_told_from_a_damaged_one(run, monkeypatch):
    monkeypatch.setattr("ryzen_mpi.metrics.reader._PAUSE_S", 0)
    with (run / "metrics.h5").open("r+b") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.truncate(1000)
        with pytest.raises(UserError, match="is being written"):
            read_metrics(run / "metrics.h5")


@pytest.mark.parametrize("option", ["", "--csv"])
def test_head_may_close_the_pipe(run, option):
    sink = Hdf5Sink(run / "metrics.h5", 2, LAYERS, 30)
    for step in range(31, 3000):
        sink.write(step_record(step, 2))
    sink.close()
    program = f"{sys.executable} -c 'from ryzen_mpi.commands.metrics import metrics_command as m; m()'"
    command = f"{program} {run} {option} | head -n 2"
    done = subprocess.run(command, shell=True, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert len(done.stdout.splitlines()) == 2 and done.stderr == ""


def test_reading_needs_no_torch_and_help_no_hdf5():
    source = "import sys; {}; print(sorted({{'torch', 'h5py', 'rich', 'numpy'}} & set(sys.modules)))"
    for imports, heavy in (
        ("import ryzen_mpi.commands.metrics", "[]"),
        ("import ryzen_mpi.metrics.reader, ryzen_mpi.metrics.hdf5", "['h5py', 'numpy']"),
    ):
        command = [sys.executable, "-c", source.format(imports)]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == heavy
