"""The plan of a run: its work, its sends, and what to change where it does not fit."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ryzen_mpi.commands.plan import command
from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.model.transformer import parameter_count
from ryzen_mpi.settings import load_settings
from ryzen_mpi.training.memory import need
from ryzen_mpi.training.plan import changes, check_fits, smallest_change, work


def settings(*overrides: str, profile: str = "production_4process") -> Settings:
    return load_settings(profile, overrides, {})


def test_a_step_takes_six_operations_a_matrix_parameter_and_token_and_those_of_attention():
    made = settings("hardware.gradient_checkpoint=false")
    model = made.model
    tokens = 64 * 2 * 4 * model.seq_length
    matrices = parameter_count(made) - model.embedding_dim * model.seq_length
    expected = 6 * tokens * (matrices + 2 * model.num_layers * model.seq_length * model.embedding_dim)
    assert work(made, 4, 1).flops == pytest.approx(expected)
    assert work(settings(), 4, 1).flops == pytest.approx(expected * 4 / 3)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_what_leaves_a_node_is_what_rings_must_send(stage):
    made = settings(f"hardware.zero_stage={stage}")
    count = parameter_count(made)
    assert work(made, 4, 1).between_bytes == 0
    per_parameter = 8 if stage == 0 else 4 + 2  # gradients there and back; or there, and narrow weights back
    assert work(made, 4, 4).between_bytes == count * per_parameter * 3 // 4


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_compression_sends_less_and_keeps_an_error_as_large_as_the_gradient(stage):
    def made(name):
        return settings(f"hardware.zero_stage={stage}", "distributed.backend=mpi", f"distributed.compression={name}")

    count, plain = parameter_count(made("none")), work(made("none"), 4, 2).between_bytes
    weights = count if stage else 0  # two bytes each, half of them the other node's
    gradients = plain - weights
    for name, ratio in (("bfloat16", 2), ("float16", 2), ("topk", 100)):
        sent = work(made(name), 4, 2).between_bytes
        assert sent - weights == pytest.approx(gradients / ratio, rel=0.001)
    assert 0 < work(made("powersgd"), 4, 2).between_bytes - weights < gradients / 100
    for name in ("powersgd", "topk"):
        assert need(made(name), 4, 2).node - need(made("none"), 4, 2).node == 4 * count
        assert need(made(name), 4, 1) == need(made("none"), 4, 1)
    assert need(made("bfloat16"), 4, 2) == need(made("none"), 4, 2)


def test_a_node_that_has_just_enough_is_taken_and_a_byte_less_is_refused():
    made = settings(profile="default")
    wanted = need(made, 3)
    assert check_fits(made, 3, 1, wanted.node, "told") == wanted
    with pytest.raises(UserError) as caught:
        check_fits(made, 3, 1, wanted.node - 1, "cgroup limit /x")
    for part in ("3 ranks", "cgroup limit /x", wanted.text()):
        assert part in caught.value.message
    assert caught.value.hint.startswith("hardware.zero_stage=1 needs ")


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.1, 0.04])
def test_the_smallest_change_fits_and_none_before_it_does(share):
    made = settings("hardware.zero_stage=0", "hardware.gradient_checkpoint=false")
    room = int(share * need(made, 4).node)
    change = smallest_change(made, 4, 1, room)
    assert change.need.node <= room and change.need == need(change.settings, 4, change.nodes)
    assert change.settings.global_batch(4 * change.nodes) == made.global_batch(4) or change.nodes > 1
    for earlier in changes(made, 4, 1):
        if earlier.text == change.text:
            break
        assert earlier.need.node > room


@pytest.mark.parametrize(
    ("chosen", "proposed"),
    [
        (["hardware.weights_per=numa", "distributed.backend=mpi"], "hardware.weights_per=node"),
        (["distributed.backend=gloo"], "distributed.backend=mpi"),
        (["distributed.arena=false", "distributed.backend=auto"], "distributed.arena=true"),
    ],
)
def test_one_copy_of_the_weights_is_proposed_before_anything_else(chosen, proposed):
    made = settings(*chosen)
    room = need(made, 8, domains=4).node - 1
    assert smallest_change(made, 8, 1, room, domains=4).text == proposed
    with pytest.raises(UserError, match="does not fit") as caught:
        check_fits(made, 8, 1, room, "told", domains=4)
    assert caught.value.hint.startswith(f"{proposed} needs ")


def test_the_command_says_whether_it_fits_and_what_would():
    runner = CliRunner()
    fits = runner.invoke(command, ["--ranks", "2", "--memory", "64"])
    assert fits.exit_code == 0 and "fits: " in fits.output and "TFLOP" in fits.output
    words = ["--config", "production_4process", "--memory", "256", "--domains", "8", "--nodes", "2"]
    refused = runner.invoke(command, words)
    assert refused.exit_code == 1 and "smallest change that fits: training.batch_size=" in refused.output
    assert "a NUMA domain" in refused.output
    hopeless = runner.invoke(command, [*words, "--memory", "1"])
    assert hopeless.exit_code == 1 and "no stage, accumulation" in hopeless.output
    assert runner.invoke(command, ["--nodes", "0"]).exit_code == 2
