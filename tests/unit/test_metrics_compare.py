"""`ryzen-mpi metrics RUN --compare RUN2`: what two runs have in common, and what not, in figures and sentences."""

from __future__ import annotations

import csv
import io
import math
import random
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from metrics_records import LAYERS, evaluation_record, sample_record, step_record

from ryzen_mpi.commands.metrics import metrics_command
from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.report.compare import compared


def run(path: Path, steps: range, step_s: float = 0.1, lower: float = 0.0, seed: int = 1, **settings) -> Path:
    """A run of these steps: 64 samples each, in step_s with 5 % of noise, the loss lower than 5 / step by `lower`."""
    chance = random.Random(seed)
    path.mkdir()
    (path / "config.yaml").write_text(yaml.safe_dump(Settings(**settings).model_dump(mode="json")))
    sink = Hdf5Sink(path / "metrics.h5", 2, LAYERS, steps.start - 1)
    for step in steps:
        sink.write(step_record(step, 2, step_s=step_s * chance.uniform(0.95, 1.05), loss=5 / step - lower))
        if step % 50 == 0:
            sink.write(evaluation_record(step))
            sink.write(sample_record(step, 2))
    sink.close()
    return path


def shown(*arguments: object) -> str:
    result = CliRunner().invoke(metrics_command, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_runs_that_are_equal_are_said_to_be(tmp_path):
    one = run(tmp_path / "one", range(1, 201))
    other = run(tmp_path / "other", range(1, 201), seed=2)
    output = shown(one, "--compare", other)
    assert "200 steps in common, 1 to 200." in output
    assert "Loss: equal at every one of them, bit for bit." in output
    assert "Speed: no difference can be told; other trains" in output
    assert "Held-out loss after step 200: 0.0300 and 0.0300 nat/token, +0.0000." in output
    assert "Settings" not in output
    assert shown(one / "metrics.h5", "--compare", other / "metrics.h5") == output


def test_a_faster_and_a_better_run_are_said_to_be_with_intervals(tmp_path):
    one = run(tmp_path / "one", range(1, 301))
    other = run(
        tmp_path / "other",
        range(1, 301),
        0.08,
        0.002,
        2,
        training={"learning_rate": 0.002},
        hardware={"num_threads": 1},
    )
    output = shown(one, "--compare", other)
    assert "Speed: they differ; other trains 1.2" in output
    assert "differ from step 1 on, by at most 0.002 nat/token; over the last steps other is lower by 0.002" in output
    assert "Settings that differ: hardware.num_threads None and 1; training.learning_rate 0.001 and 0.002." in output
    speed, back = compared(one, other).speed(), compared(other, one).speed()
    assert speed.low < 1.25 < speed.high and speed.high - speed.low < 0.05 and speed.confidence >= 0.95
    assert speed.n == 295  # without the five after the start
    assert (back.low, back.high) == (pytest.approx(1 / speed.high), pytest.approx(1 / speed.low))


def test_the_interval_of_the_speed_holds_what_is_true_nineteen_times_of_twenty(tmp_path):
    one = run(tmp_path / "one", range(1, 41))
    found = compared(one, run(tmp_path / "other", range(1, 41), seed=2))
    held = 0
    for seed in range(200):
        chance = random.Random(seed)
        found.rate[:] = [[chance.lognormvariate(0, 0.1) for _ in range(40)] for _ in range(2)]
        speed = found.speed()
        held += speed.low <= 1 <= speed.high
    assert held >= 190


def test_only_the_steps_that_both_have_are_compared(tmp_path):
    one = run(tmp_path / "one", range(1, 101))
    other = run(tmp_path / "other", range(61, 201), lower=0.001)
    rows = list(csv.DictReader(io.StringIO(shown(one, "--compare", other, "--csv"))))
    assert [int(row["step"]) for row in rows] == list(range(61, 101))
    assert all(float(row["loss_difference"]) == float(row["loss.1"]) - float(row["loss.0"]) for row in rows)
    assert math.isnan(float(rows[0]["samples_per_s.1"])) and 600 < float(rows[0]["samples_per_s.0"]) < 700
    assert len(shown(one, "--compare", other, "--csv", "--last", 7).splitlines()) == 8
    table = shown(one, "--compare", other)
    cells = [line.replace("│", " ").split() for line in table.splitlines() if line.startswith("│")]
    assert len(cells) == 20 and cells[0][0] == "61" and cells[-1][0] == "100"
    assert cells[-1][1:4] == ["0.0500", "0.0490", "-0.001"]


def test_losses_that_are_no_numbers_are_compared_too(tmp_path):
    one = run(tmp_path / "one", range(1, 31), lower=math.nan)
    assert "equal at every one of them" in shown(one, "--compare", one)
    other = run(tmp_path / "other", range(1, 31))
    assert "differ from step 1 on, by at most 0 nat/token; neither is the lower" in shown(one, "--compare", other)


def test_what_cannot_be_compared_is_refused_with_a_hint(tmp_path):
    one = run(tmp_path / "one", range(1, 11))
    far = run(tmp_path / "far", range(21, 31))
    with pytest.raises(UserError, match="one has steps 1 to 10 and far has steps 21 to 30"):
        shown(one, "--compare", far)
    with pytest.raises(UserError, match="no run directory at"):
        shown(one, "--compare", tmp_path / "none")
    with pytest.raises(UserError, match="is no run directory"):
        (tmp_path / "empty").mkdir()
        shown(tmp_path / "empty", "--compare", one)
    with pytest.raises(UserError, match="neither --samples nor --follow"):
        shown(one, "--compare", far, "--follow")
