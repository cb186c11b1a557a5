"""All rules together: planted faults find the right answer in time, healthy runs none, and nothing upsets a rule."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from health_looks import gauges, look
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from looks import SAVE, Scene, healthy
from planted_looks import PLANTED

from ryzen_mpi.cluster.gauges import NAMES
from ryzen_mpi.config import Monitor, Rules
from ryzen_mpi.health.acts import KINDS, Act
from ryzen_mpi.health.balance import over_others
from ryzen_mpi.health.rules import RULES, Given, make_rules
from ryzen_mpi.health.window import Window

AT = 250
SCENES = {ranks: Scene(5 + ranks, ranks, AT + 2 * SAVE + 50, step_s=1.0, loss_noise=0.02) for ranks in (2, 4)}
LOOKS = {ranks: healthy(scene) for ranks, scene in SCENES.items()}


def judged(looks, monitor=None):
    rules = make_rules(monitor or Monitor(), Given(16, (4,) * looks[0].ranks, (), SAVE))
    return [act for one in looks for rule in rules for act in rule.look(one)]


@pytest.mark.parametrize("ranks", LOOKS)
def test_a_healthy_run_is_left_alone(ranks):
    assert judged(LOOKS[ranks]) == []


@pytest.mark.parametrize("ranks", LOOKS)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_finds_its_rule_rank_and_act_in_time(name, ranks):
    fault, rank = PLANTED[name], ranks - 1
    looks = fault.plant(LOOKS[ranks], AT, rank)
    acts = judged(looks)
    right = [act for act in acts if (act.rule, act.kind) == (fault.rule, fault.kind)]
    assert right and all(act.step > AT for act in acts), acts
    first = right[0]
    seconds = looks[first.step - 1].clock_s - looks[AT].clock_s
    assert first.step - AT - 1 <= fault.steps or seconds <= fault.seconds
    if fault.names == "rank":
        assert first.rank == (-1 if fault.rule == "sync" and ranks == 2 else rank)
    if fault.names:
        assert first.node == ("" if first.rank == -1 and fault.names == "rank" else looks[AT].hosts[rank])


def test_every_rule_has_its_setting_and_is_made_unless_off():
    assert set(RULES) == set(Rules.model_fields)
    assert [rule.name for rule in make_rules(Monitor())] == list(RULES)
    off = make_rules(Monitor(rules=Rules(spike="off", heat="off")))
    assert {rule.name for rule in off} == set(RULES) - {"spike", "heat"}


def test_divergence_hears_only_of_rules_that_are_not_off():
    looks = PLANTED["spikes_on_end"].plant(LOOKS[4], AT, 0)
    assert "divergence" in {act.rule for act in judged(looks[: AT + 6])}
    assert "divergence" not in {act.rule for act in judged(looks[: AT + 6], Monitor(rules=Rules(spike="off")))}


wild = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def wild_looks(draw):
    """Looks with any numbers at all in them, at some steps of a run."""
    ranks = draw(st.integers(1, 4))
    looks = []
    for step in range(1, 40):
        found = look(step, ranks=ranks, gauges=gauges(ranks, step))
        if draw(st.integers(0, 3)) == 0:
            some = arrays(np.float64, ranks, elements=wild)
            names = ("rank_loss", "rank_gradient_norm", "rank_step_s", "rank_communication_s", "finite")
            found = replace(
                found,
                loss=draw(wild),
                gradient_norm=draw(wild),
                clock_s=draw(wild),
                step=draw(st.sampled_from([step, 1, max(1, step - 5)])),
                gauges={name: draw(some) for name in draw(st.sets(st.sampled_from(NAMES), max_size=6))},
                weights=draw(st.none() | st.lists(st.integers(0, 2), min_size=ranks, max_size=ranks)),
                **{name: draw(some) for name in draw(st.sets(st.sampled_from(names)))},
            )
        looks.append(found)
    return looks


@given(wild_looks())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.filterwarnings("error")
def test_whatever_is_looked_at_rules_answer_alike_and_in_json(looks):
    once, again = ([json.dumps(act.document(), allow_nan=False) for act in judged(looks)] for _ in range(2))
    assert once == again


def test_an_act_of_no_known_kind_cannot_be_made():
    with pytest.raises(AssertionError):
        Act("spike", "explode", 0, "", 1, "because")
    assert "warn" in KINDS


def test_figures_that_are_no_numbers_become_words():
    document = Act("memory", "warn", -1, "node1", 3, "little", {"a": math.nan, "b": np.float64(2), "c": "x"}).document()
    assert document["figures"] == {"a": "nan", "b": 2.0, "c": "x"} and document["node"] == "node1"


def test_a_window_knows_median_and_deviation_of_the_newest():
    random, window = np.random.default_rng(1), Window(15)
    values = random.integers(0, 6, 200).astype(float)  # many equal ones
    for n, value in enumerate(values):
        window.add(value)
        newest = values[max(0, n - 14) : n + 1]
        assert window.median == np.median(newest)
        assert window.deviation == pytest.approx(1.4826 * np.median(np.abs(newest - np.median(newest))))


@pytest.mark.parametrize("ranks", range(2, 8))
def test_a_rank_is_compared_with_the_median_of_the_others(ranks):
    times = np.random.default_rng(ranks).integers(1, 5, (40, ranks)).astype(float)
    others = [np.median(np.delete(times, rank, axis=1), axis=1) for rank in range(ranks)]
    assert over_others(times) == pytest.approx(times / np.stack(others, axis=1) - 1)
    assert np.isnan(over_others(times[:, :1])).all()
    times[3, 1] = np.nan
    assert np.isnan(over_others(times)[3]).all() and np.isfinite(over_others(times)[4]).all()
