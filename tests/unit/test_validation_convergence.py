"""What curves say of convergence, with curves that were made for it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ryzen_mpi.cluster.phases import phase
from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling.launch import Nodes
from ryzen_mpi.settings import load_settings
from ryzen_mpi.validation.checks.convergence import judge
from ryzen_mpi.validation.convergence import (
    WORDS,
    deterministic,
    gap,
    largest_difference,
    rise,
    share_words,
    statistical,
    steps_to,
)
from ryzen_mpi.validation.registry import Context, find
from ryzen_mpi.validation.trainings import Curve

SEEDS, STEPS, RANKS = 6, 60, 4


def curve(name: str, seed: int, ranks: int, off: float = 0.0, noise: float = 1e-4) -> Curve:
    """A falling loss that depends on the seed, and on `off` and rounding by `noise`."""
    data = np.random.default_rng(seed)
    mine = np.random.default_rng((seed, ranks, sum(map(ord, name))))
    losses = (1.4 + 2 * np.exp(-np.arange(STEPS) / 12)) * (1 + 0.01 * data.normal(size=STEPS))
    losses = losses * (1 + off) * (1 + noise * mine.normal(size=STEPS))
    norms = 0.5 * (1 + noise * mine.normal(size=STEPS))
    return Curve(name, ranks, 1, tuple(losses), tuple(norms), 1.45 * (1 + off) * (1 + noise * mine.normal()))


def curves(ranks: int, off: float = 0.0, kinds=()) -> dict[str, Curve]:
    found = [curve("float64", 99, ranks, noise=0.0)]
    for dtype, noise in (("float32", 1e-5), ("bfloat16", 1e-3)):
        found += [curve(f"plain {dtype} {seed}", seed, ranks, off, noise) for seed in range(SEEDS)]
    for kind in kinds:
        for seed in range(SEEDS):
            made = curve(f"{kind} float32 {seed}", seed, ranks, 0.3 if kind == "frozen" else off, 1e-5)
            if kind == "summed":
                made = dataclasses.replace(made, norms=tuple(RANKS * norm for norm in made.norms))
            found.append(made)
    return {each.name: each for each in found}


ALONE = curves(1)


def together(off: float = 0.0) -> dict[str, Curve]:
    return curves(RANKS, off, ("again", "summed", "frozen"))


def values(found) -> dict:
    return {figure.name: figure.value for figure in found.figures}


def test_every_rank_computes_with_one_thread_however_many_cores_it_has():
    """One rank on two cores that others used as well took ten times as long with two threads."""
    settings = load_settings("default", (*WORDS, *deterministic(1, 10).words))
    assert settings.hardware.num_threads == 1


def test_healthy_curves_are_equivalent_and_the_controls_behave():
    found = judge(ALONE, together(), SEEDS)
    figures = values(found)
    assert found.problems == [] and figures["controls_right"] == 3
    assert figures["deterministic_error"] == 0 and figures["loss_bound"] < 1e-4 < figures["bf16_loss_bound"] < 0.01
    assert figures["gradient_norm_bound"] < 1e-4 and figures["speed_bound"] < 0.01
    assert figures["rise"] < 0.05 and figures["oscillation"] == pytest.approx(1, abs=0.1)
    assert abs(figures["gap_difference"]) < 0.01


@pytest.mark.parametrize("off", [0.02, -0.02])
def test_a_loss_that_is_two_percent_off_is_not_equivalent(off):
    figures = values(judge(ALONE, together(off), SEEDS))
    assert figures["loss_bound"] > 0.01 and figures["bf16_loss_bound"] > 0.01


def test_a_loss_that_differs_in_one_step_of_float64_is_found():
    found = together()
    losses = list(found["float64"].losses)
    losses[7] *= 1 + 1e-11
    found["float64"] = dataclasses.replace(found["float64"], losses=tuple(losses))
    figure = judge(ALONE, found, SEEDS).figures[0]
    assert figure.value == pytest.approx(1e-11, rel=1e-3) and "at step 8" in figure.why


@pytest.mark.parametrize("control", ["summed", "frozen"])
def test_a_control_that_passes_though_it_must_fail_makes_the_check_not_working(control):
    found = together()
    for seed in range(SEEDS):
        found[f"{control} float32 {seed}"] = found[f"plain float32 {seed}"]
    problems = judge(ALONE, found, SEEDS).problems
    assert len(problems) == 1 and "not working" in problems[0] and "taken for healthy" in problems[0]


def test_a_control_that_fails_though_it_must_pass_makes_the_check_not_working():
    found = together()
    for seed in range(SEEDS):
        noisy = curve(f"again float32 {seed}", seed, RANKS, 0.05 * (-1) ** seed)
        found[noisy.name] = noisy
    problems = judge(ALONE, found, SEEDS).problems
    assert len(problems) == 1 and "not found equivalent" in problems[0]


def test_one_pair_proves_nothing():
    found = judge(ALONE, together(), 1)
    assert values(found)["loss_bound"] == math.inf and found.problems


def test_a_training_that_diverges_is_no_equivalence_and_its_rise_is_infinite():
    found = together()
    bad = found["plain float32 2"]
    found["plain float32 2"] = dataclasses.replace(bad, losses=(*bad.losses[:-1], math.nan), held_out=math.nan)
    figures = values(judge(ALONE, found, SEEDS))
    assert figures["rise"] == math.inf and figures["loss_bound"] == math.inf and figures["oscillation"] is None


def test_a_loss_that_rises_again_and_one_that_swings_are_seen():
    found = together()
    for seed in range(SEEDS):
        name = f"plain float32 {seed}"
        losses = np.array(found[name].losses) * (1 + 0.1 * (-1.0) ** np.arange(STEPS))
        losses[-15:] *= np.linspace(1, 1.6, 15)
        found[name] = dataclasses.replace(found[name], losses=tuple(losses))
        found[f"plain bfloat16 {seed}"] = dataclasses.replace(found[name], name=f"plain bfloat16 {seed}")
    figures = values(judge(ALONE, found, SEEDS))
    assert figures["rise"] > 0.1 and figures["oscillation"] > 2


def test_more_overfitting_with_the_ranks_is_seen():
    found = together()
    for dtype in ("float32", "bfloat16"):
        for seed in range(SEEDS):
            name = f"plain {dtype} {seed}"
            found[name] = dataclasses.replace(found[name], held_out=found[name].held_out * 1.05)
    assert values(judge(ALONE, found, SEEDS))["gap_difference"] == pytest.approx(0.05, abs=0.01)


def test_steps_to_a_level_lie_between_two_in_proportion():
    falling = np.arange(20.0, 0.0, -1.0)  # smoothed: 18, 17, 16, ...
    assert steps_to(15.5, falling) == pytest.approx(3.5) and steps_to(17.0, falling) == pytest.approx(2)
    assert steps_to(-1.0, falling) == math.inf and steps_to(99.0, falling) == 1


def test_gap_and_rise_of_plain_curves():
    flat = Curve("x", 1, 1, (2.0,) * 20, (1.0,) * 20, 2.2)
    assert gap(flat) == pytest.approx(0.1) and rise(flat) == pytest.approx(0)
    assert largest_difference(flat, flat) == (0.0, 1)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 8, 12, 16])
def test_a_rank_has_its_share_in_so_many_micro_batches(ranks):
    for parts in (1, 2):
        size = int(share_words(ranks, parts)[0].partition("=")[2])
        assert size * ranks * parts >= 48 > (size - 1) * ranks * parts
    assert {training.fault for training in statistical(ranks, 2, 5, "float32", "again")} == {""}


@pytest.mark.parametrize(
    "options", [{"steps": 3}, {"seeds": 1}, {"steps": "many"}, {"first_seed": -1}, {"steps": 12.5}]
)
def test_options_that_say_nothing_are_refused_before_anything_is_trained(tmp_path, options):
    (name, value), *_ = options.items()
    with pytest.raises(UserError, match=f"--option {name}={value}: not a whole number from "):
        find("convergence").run(Context(phase("1"), 4, tmp_path, None, Nodes(), (), options))
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_ranks_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="ranks=8,x: not numbers of ranks"):
        find("convergence_wide").run(Context(phase("1"), 4, tmp_path, None, Nodes(), (), {"ranks": "8,x"}))
