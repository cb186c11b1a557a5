"""`ryzen-mpi simulate` as a person types it."""

import json

import calibrations
import numpy as np
import pytest
from click.testing import CliRunner

from ryzen_mpi.commands.simulate import command
from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling.outlook import parse_network, parse_ranks

MODEL = ["hardware.dtype=float32"]


@pytest.fixture
def by_hand(tmp_path):
    calibrations.by_hand().write(tmp_path / "calibration.json")
    return ["--calibration", str(tmp_path / "calibration.json"), *MODEL]


def run(*words):
    return CliRunner().invoke(command, list(words), catch_exceptions=True)


def test_a_question_is_answered_up_to_4096_ranks_as_table_and_json(by_hand, tmp_path):
    out = tmp_path / "out.json"
    done = run(*by_hand, "--ranks", "1,8,16,...,4096", "--out", str(out), "--mtbf-hours", "5000", "--cores", "16")
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert [row["ranks"] for row in found["rows"]] == [1, *(2**n for n in range(3, 13))]
    assert "4096" in done.output and "95 % bands" in done.output and "given by hand" in done.output
    for row in found["rows"]:
        assert row["throughput"]["low"] <= row["throughput"]["value"] <= row["throughput"]["high"]
        assert 0 < row["efficiency"]["high"] <= 1 and row["best"]["fits"] and row["best"]["algorithm"] == "direct"
        assert row["saving"]["steps"] >= 1 and 0 < row["saving"]["kept"] < 1
    assert found["documents"] is None and found["rows"][0]["nodes"] == 1 and found["rows"][-1]["nodes"] == 1024


def test_an_unknown_network_is_assumed_and_said_so(tmp_path):
    calibrations.by_hand(network_latency_s=None, network_s_per_byte=None).write(tmp_path / "c.json")
    done = run("--calibration", str(tmp_path / "c.json"), "--ranks", "8")
    assert done.exit_code == 0 and "ASSUMED, not measured" in " ".join(done.output.split())
    given = run("--calibration", str(tmp_path / "c.json"), "--ranks", "8", "--network", "20,100")
    assert "ASSUMED" not in given.output and "as given (--network)" in given.output


@pytest.mark.parametrize("slower, told", [(1.0, False), (3.0, True)])
def test_a_network_of_two_speeds_is_warned_of(tmp_path, slower, told):
    calibration = calibrations.measured(np.random.default_rng(1), rounds=4, line=(2e-5, 2e-8))
    for launch in calibration.launches:
        for row in launch["collective"]:
            row["s"] = [second * (slower if row["bytes"] == 8 << 20 else 1) for second in row["s"]]
    calibration.write(tmp_path / "c.json")
    done = run("--calibration", str(tmp_path / "c.json"), "--ranks", "8", "--network", "20,100")
    assert done.exit_code == 0, done.output
    assert ("in a node does not grow as latency + bytes / bandwidth: 8 MiB" in " ".join(done.output.split())) == told


def test_the_documents_formula_is_fitted_to_what_was_measured(tmp_path):
    calibrations.measured(np.random.default_rng(1), rounds=4).write(tmp_path / "c.json")
    words = ["--calibration", str(tmp_path / "c.json"), "--ranks", "2,8", "--out", str(tmp_path / "o.json")]
    assert run(*words).exit_code == 0
    found = json.loads((tmp_path / "o.json").read_text())["documents"]
    assert -0.2 < found["gain"]["value"] < 0 and found["throughput"]["8"] == pytest.approx(
        8 * found["base"]["value"] * (1 + found["gain"]["value"])
    )
    assert any("without bound" in line for line in found["misses"])


def test_the_documents_formula_is_fitted_to_a_scaling_report(by_hand, tmp_path):
    rows = [{"mode": "weak", "ranks": p, "samples": 100 * p, "measured_s": 1 + 0.05 * p} for p in (1, 2, 4) * 3]
    for content, message in (({"launches": rows[:1]}, "at least one other"), ([], "no scaling report")):
        (tmp_path / "report.json").write_text(json.dumps(content))
        done = run(*by_hand, "--ranks", "8", "--measured", str(tmp_path / "report.json"))
        assert message in str(done.exception), done.output
    (tmp_path / "report.json").write_text(json.dumps({"launches": rows}))
    words = ["--ranks", "8", "--measured", str(tmp_path / "report.json"), "--out", str(tmp_path / "o.json")]
    done = run(*by_hand, *words)
    assert done.exit_code == 0 and "amdahl" in done.output, done.output
    assert json.loads((tmp_path / "o.json").read_text())["documents"]["base"]["value"] == pytest.approx(100 / 1.05)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--ranks", "8,x"], "'x' is no number of ranks"),
        (["--ranks", "0"], "'0' is no number"),
        (["--ranks", ""], "is no number"),
        (["--ranks", "...,8"], "'...' is no number"),
        (["--ranks", "9999999999"], "is no number"),
        (["--network", "fast"], "--network fast: no network"),
        (["--network", "1,0"], "no network"),
        (["--compression", "zip"], "distributed.compression"),
        (["training.virtual_ranks=2"], "nothing of it scales"),
        (["training.global_batch=4"], "without a sample"),
        (["--out", "/nowhere/o.json"], "does not exist"),
        (["--mtbf-hours", "1", "--failures-of", "x"], "exclude one another"),
        (["--failures-of", "/nowhere"], "can't be read"),
        (["--measured", "/nowhere"], "--measured /nowhere can't be read"),
        (["model.layers=3"], "unknown key"),
    ],
)
def test_what_cannot_be_answered_is_refused(by_hand, words, message):
    done = run(*by_hand, *words)
    assert isinstance(done.exception, UserError) and message in str(done.exception), done.output


@pytest.mark.parametrize("words", [["--nodes-of", "0"], ["--cores", "0"], ["--mtbf-hours", "0"], ["--launches", "0"]])
def test_numbers_out_of_range_are_refused(by_hand, words):
    assert run(*by_hand, *words).exit_code == 2


def test_without_a_calibration_it_says_how_to_make_one(tmp_path):
    done = run("--calibration", str(tmp_path / "none.json"))
    assert isinstance(done.exception, UserError) and "--calibrate" in str(done.exception)


def test_ranks_and_networks_are_read_as_written():
    assert parse_ranks("8,12,16,32,…,256") == (8, 12, 16, 32, 64, 128, 256)
    assert parse_ranks("4, 2,2") == (2, 4) and parse_ranks("3,...,20") == (3, 6, 12, 20)
    assert parse_network("20,100") == (20.0, 100.0) and parse_network(None) is None
