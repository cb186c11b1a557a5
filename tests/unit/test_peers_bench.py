"""The parts of benchmarks/peers.py that need no ranks: its words, rounds and commands, and jobs that go wrong."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import peers
from peer_sides.cases import CASES, case_settings
from peer_sides.job import Job, SideError, last_words

ECHO = "import json, sys; print(json.dumps('ready'), flush=True)\nfor line in sys.stdin: "


def options(**given) -> argparse.Namespace:
    return argparse.Namespace(**{"case": "98m", "ranks": 2, "zero_stage": None, "overrides": []} | given)


def test_sides_alternate_take_turns_at_being_first_and_lose_their_warm_up():
    order: list[str] = []

    def side(name):
        def run() -> dict:
            order.append(name)
            return {"seconds": [len(order)]}

        return run

    answers = peers.alternate({"ours": side("ours"), "peer": side("peer")}, rounds=2)
    assert order == ["ours", "peer", "peer", "ours"] * 2
    assert peers.seconds(answers["ours"]) == [5, 8]
    assert peers.seconds(answers["peer"]) == [6, 7]


@pytest.mark.parametrize(
    ("side", "ranks", "binding"),
    [("ours", 2, []), ("fsdp2", 2, ["--bind-to", "core"]), ("fsdp2", 4, ["--bind-to", "none", "--oversubscribe"])],
)
def test_a_peer_is_bound_where_the_cores_suffice_and_ours_binds_itself(side, ranks, binding):
    command = peers.launch_command(side, "plain", options(ranks=ranks), 2, "hardware.weights_per=rank")
    assert command[1 : command.index(sys.executable)] == ["-np", str(ranks), *binding]
    assert command[command.index("--side") + 1] == side
    assert command[-1] == "hardware.weights_per=rank"


def test_the_stage_of_a_case_is_its_own_unless_told():
    assert [case_settings(case, None, []).hardware.zero_stage for case in CASES] == [0, 2, 2]
    assert case_settings("98m", 1, ["training.batch_size=3"]).hardware.zero_stage == 1


def test_the_peers_models_have_our_parameters():
    pytest.importorskip("torch")
    from peer_sides.models import MODELS
    from peer_sides.step import count

    from ryzen_mpi.model.transformer import parameter_count

    settings = case_settings("scaling", None, ["hardware.max_seq_length=200"])
    assert {count(kind(settings)) for kind in MODELS.values()} == {parameter_count(settings)}


def test_an_unknown_peer_is_refused_with_those_there_are():
    assert peers.names("fsdp2,fabric") == ["fsdp2", "fabric"]
    with pytest.raises(argparse.ArgumentTypeError, match=r"unknown: horovod; there are plain-ddp, "):
        peers.names("fsdp2,horovod")


def test_a_loss_that_is_not_finite_makes_a_side_fail():
    assert peers.check_losses("x", [{"losses": [3.0, 2.5]}, {"losses": [2.0]}]) == [3.0, 2.0]
    with pytest.raises(SideError, match="x: its loss was not finite"):
        peers.check_losses("x", [{"losses": [3.0, float("nan")]}])


def test_new_comparisons_replace_their_predecessors_and_keep_the_others(tmp_path):
    path = tmp_path / "peers.json"
    assert peers.keep({"a": {"n": 1}}, path) == {"a": {"n": 1}}
    path.write_text(json.dumps({"comparisons": {"a": {"n": 1}, "b": {"n": 2}}}))
    assert peers.keep({"a": {"n": 3}}, path) == {"a": {"n": 3}, "b": {"n": 2}}


def test_a_job_answers_line_by_line_and_ends_when_told():
    code = ECHO + "line == 'quit\\n' and sys.exit(); print(json.dumps(line.split()), flush=True)"
    with Job("echo", [sys.executable, "-c", code], 30) as job:
        assert job.ready == "ready"
        assert job.ask("run 6") == ["run", "6"]
    assert job._process.returncode == 0


def test_a_job_that_dies_is_told_with_its_own_error():
    with (
        Job("dying", [sys.executable, "-c", ECHO + "raise RuntimeError('no such kernel')"], 30) as job,
        pytest.raises(SideError, match=r"(?s)dying ended:.*RuntimeError: no such kernel"),
    ):
        job.ask("run 1")


def test_a_job_that_never_comes_up_is_told_with_its_own_error():
    with pytest.raises(SideError, match="No module named 'nowhere'"):
        Job("absent", [sys.executable, "-c", "import nowhere"], 30)


def test_a_silent_job_is_given_up():
    with (
        Job("silent", [sys.executable, "-c", ECHO + "line == 'quit\\n' and sys.exit()"], 30) as job,
        pytest.raises(SideError, match="gave no answer in 0.2 s"),
    ):
        job.timeout_s = 0.2
        job.ask("run 1")


def test_the_last_traceback_is_shown_without_what_the_launcher_says_about_it():
    text = "warning\nTraceback (most recent call last):\n  File x\nValueError: bad\n" + "mpirun says so\n" * 20
    assert last_words(text).startswith("Traceback")
    assert "ValueError: bad" in last_words(text)
    assert last_words(text).count("mpirun") == 3
    assert last_words("a\n\nb\n") == "a\nb"


@pytest.mark.parametrize("case", CASES)
def test_ours_learns_at_the_rate_the_peers_learn_at(case):
    from ryzen_mpi.training.schedule import learning_rate

    training = case_settings(case, None, []).training
    assert {learning_rate(step, 10**6, training) for step in (0, 10, 1000)} == {training.learning_rate}
