"""Checks that start jobs of their own: convergence, soak and reliability on two real ranks, with faults and without."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from launch import HERE, environment
from supervised import gone, processes, records

from ryzen_mpi.cluster.phases import phase
from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling.launch import Nodes
from ryzen_mpi.validation import convergence
from ryzen_mpi.validation.checks.reliability import findings as recovered
from ryzen_mpi.validation.checks.soak import findings as soaked
from ryzen_mpi.validation.recovering import carry_out as hit
from ryzen_mpi.validation.registry import Context, find
from ryzen_mpi.validation.soaking import carry_out

RANKS = 2
ONE_THREAD = "hardware.num_threads=1"
SMALL = (
    *("model.vocab_size=64", "model.embedding_dim=64", "model.num_heads=2", "model.num_layers=1"),
    *("model.feed_forward_dim=64", "model.seq_length=16", "training.batch_size=4", "distributed.timeout_s=10"),
)


def context(folder, overrides=(), **options) -> Context:
    return Context(phase("1"), RANKS, folder, None, Nodes(), (ONE_THREAD, *overrides), options)


def values(found) -> dict:
    return {figure.name: figure.value for figure in found.figures}


def test_two_ranks_converge_as_one_and_the_controls_behave(tmp_path):
    found = find("convergence").run(context(tmp_path, seeds=3, steps=30, exact_steps=10))
    figures = values(found)
    assert found.problems == [] and figures["controls_right"] == 3
    assert figures["deterministic_error"] <= 1e-12
    assert figures["loss_bound"] < 0.01 and figures["bf16_loss_bound"] < 0.01
    assert figures["gradient_norm_bound"] < 0.01 and figures["speed_bound"] < 0.05
    assert found.details["comparisons"]["summed"]["norm"]["low"] > 0.5  # log 2
    assert not found.details["comparisons"]["frozen"]["same"]


def test_more_processes_than_cores_learn_the_same_and_it_is_said(tmp_path):
    found = find("convergence_wide").run(context(tmp_path, ranks="3", steps=4))
    (figure,) = found.figures
    assert figure.name == "deterministic_error_3" and figure.value <= 1e-12 and figure.n == 4


def test_a_rank_that_learns_nothing_is_found_at_three_processes(tmp_path, monkeypatch):
    sound = convergence.deterministic

    def frozen(ranks, steps):
        return replace(sound(ranks, steps), fault="frozen" if ranks > 1 else "")

    monkeypatch.setattr(convergence, "deterministic", frozen)
    (figure,) = find("convergence_wide").run(context(tmp_path, ranks="3", steps=4)).figures
    assert figure.value > 1e-6


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A soak of a few seconds in which a rank is slow, another is killed, and a checkpoint is spoilt."""
    folder = tmp_path_factory.mktemp("soak")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED", "slow:1 kill:0@45 spoil:10")
        for duration_s in (4.0, 10.0, 30.0, 90.0):  # it goes on where it was, on a busy machine more than once
            soak = carry_out(context(folder, SMALL, save_interval=10), duration_s, (str(HERE / "planted_soak.py"),))
            if any(attempt.end == "fault" for attempt in soak.attempts) and len(soak.steps) > 60:
                return folder, soak
    raise AssertionError(f"no fault came: {soak.attempts}")


def test_a_soak_finds_a_slow_rank_a_killed_one_and_a_spoilt_checkpoint(faulty):
    _, soak = faulty
    found = soaked(soak, 60.0)
    figures = values(found)
    assert figures["soak_s"] >= 4 and figures["restarts"] == 1 and 0 < figures["uptime"] < 1
    assert figures["imbalance"] > 0.2
    assert found.details["work_s_by_rank"][1] > 1.5 * found.details["work_s_by_rank"][0]
    assert figures["checkpoints"] < 1 and any("step 10 is damaged" in text for text in found.problems), found.problems
    assert found.evidence and "killed" in found.evidence[0]
    assert found.impossible == [] and figures["not_finite"] == 0


def test_a_soak_goes_on_where_it_was_left_and_refuses_to_become_another(faulty):
    folder, before = faulty
    looks = json.loads((folder / "looks.json").read_text())
    assert looks["memory"] and all(0 < share < 1 for share in looks["memory"][0].values())
    again = context(folder, SMALL, save_interval=10)
    with pytest.raises(UserError, match="other words"):
        carry_out(context(folder, (*SMALL, "training.seed=5"), save_interval=10), 5.0)
    reached = carry_out(again, 1.0)  # it is longer than that already: nothing is started
    assert len(reached.steps) == len(before.steps) and len(reached.attempts) == len(before.attempts)


ORPHANS = """
import sys, time
from pathlib import Path
from ryzen_mpi.validation.supervised import Supervised
run = Supervised(Path(sys.argv[1]), 1, 1)
run.start(sys.argv[2:])
run.wait_for("training", run.trains, 120)
print("trains", flush=True)
time.sleep(300)
"""


def test_a_check_that_is_killed_leaves_no_run_behind(tmp_path):
    words = (ONE_THREAD, *SMALL, "data.source=markov", "data.num_samples=100000000", "training.save_interval=10")
    command = [sys.executable, "-c", ORPHANS, str(tmp_path), *words]
    check = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert check.stdout.readline() == "trains\n"
    path = tmp_path / "run"
    assert processes(path)
    check.kill()
    check.wait()
    gone(path, limit_s=60)
    assert records(path)[-1]["end"] == "stopped"


def test_a_killed_rank_comes_back_and_the_losses_are_those_of_an_undisturbed_run(tmp_path):
    found = find("reliability").run(context(tmp_path / "f", kills=1, round_trips=2))
    figures = values(found)
    assert found.problems == [] and figures["ranks_after_kill"] == RANKS
    assert figures["kill_recovery_s"] > figures["kill_detected_s"] >= 0
    assert figures["recovered_loss_difference"] == 0 and figures["recovered_checkpoints_equal"] == 1
    assert figures["resized_loss_difference"] < 1e-9 and figures["resize_s"] > 0
    assert figures["checkpoint_round_trips"] == 1 and figures["partition_recovery_s"] is None


def test_a_restart_that_forgets_the_moments_is_found(tmp_path, monkeypatch):
    """Training goes on and looks healthy: only the undisturbed run beside it tells."""
    monkeypatch.setenv("PLANTED", "forget#2:all")
    found = recovered(hit(context(tmp_path / "f"), 1, 1, (str(HERE / "planted.py"),)), 2)
    figures = values(found)
    assert figures["ranks_after_kill"] == RANKS
    assert figures["recovered_loss_difference"] > 1e-6 and figures["recovered_checkpoints_equal"] < 1
    assert any("differ from those of the undisturbed run" in text for text in found.problems), found.problems
