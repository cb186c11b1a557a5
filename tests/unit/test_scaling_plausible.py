"""A set of launches that was really measured has no problem; every way to make it look better, or other, has one."""

from __future__ import annotations

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scaling_launches import changed, many, place_of, recorded, sealed

from ryzen_mpi.scaling import account
from ryzen_mpi.scaling.plausible import problems
from ryzen_mpi.scaling.record import content, parse

GOOD = recorded()
BASE = place_of(GOOD, "strong", 1)
TWO = place_of(GOOD, "strong", 2)
WEAK = place_of(GOOD, "weak", 2)


def found(values) -> str:
    return "\n".join(problems(values))


def test_the_recorded_set_has_no_problem_and_reads_back_as_it_is():
    assert len(GOOD) == 20 and problems(GOOD) == []
    assert [content(parse(values)) for values in GOOD] == GOOD
    assert problems([parse(values) for values in GOOD]) == []


def test_the_same_launches_have_the_same_problems_in_any_order():
    forged = changed(GOOD, TWO, throughput=1e6)
    assert problems(forged) == problems(forged) and set(problems(forged)) == set(problems(forged[::-1]))


# -- the mistakes of the documents ------------------------------------------------------------------------------------


def test_throughput_times_the_ranks():
    said = found(changed(GOOD, TWO, throughput=2 * GOOD[TWO]["throughput"]))
    assert "2 times as much was claimed" in said


def test_samples_times_the_ranks():
    one = GOOD[TWO]
    said = found(changed(GOOD, TWO, samples=2 * one["samples"], throughput=2 * one["throughput"]))
    assert "its ranks trained" in said and "steps of" in said and "different samples" in said


def test_warm_up_only_in_the_base():
    one, forged = GOOD[BASE], copy.deepcopy(GOOD)
    warm = one["warmup_steps"]
    forged[BASE] |= {"warmup_steps": 0, "steps": one["steps"] + warm}
    assert "warm-up steps" in found(sealed(forged))
    later = [began - sum(one["step_s"][:warm]) - 3 for began in one["rank_began"]]
    measured = one["measured_s"] + one["rank_began"][0] - later[0]
    consistent = {"rank_began": later, "measured_s": measured, "throughput": one["samples"] / measured}
    consistent |= {"rank_s": [measured], "rank_computation_s": [measured - one["rank_communication_s"][0]]}
    said = found(changed(GOOD, BASE, **consistent))
    assert "start-up or warm-up is in it" in said


def test_fewer_threads_or_cores_in_the_base():
    forged = [each | {"threads": [2, 2], "cpus": [[0, 1], [2, 3]]} if each["ranks"] == 2 else each for each in GOOD]
    said = found(sealed(forged))
    assert "threads a rank" in said and "cores a rank" in said


def test_duplicated_shards():
    shard = GOOD[TWO]["rank_indices_sha256"][0]
    assert "the very same samples" in found(changed(GOOD, TWO, rank_indices_sha256=[shard, shard]))
    assert "more than once in an epoch" in found(changed(GOOD, TWO, duplicates=7))


def test_ranks_that_ran_one_after_the_other():
    one = GOOD[TWO]
    took = one["rank_s"][1]
    forged = {
        "rank_began": [one["rank_began"][0], one["rank_ended"][0]],
        "rank_ended": [one["rank_ended"][0], one["rank_ended"][0] + took],
        "ended": one["ended"] + took,
    }
    assert "one after the other" in found(changed(GOOD, TWO, **forged))


def test_ranks_that_did_not_exchange_gradients():
    norms = [0.71 * norm for norm in GOOD[TWO]["gradient_norms"]]
    assert "did not train the same model" in found(changed(GOOD, TWO, gradient_norms=norms))
    losses = [loss * (1.002 if step > 8 else 1) for step, loss in enumerate(GOOD[TWO]["losses"])]
    assert "the loss of step" in found(changed(GOOD, TWO, losses=losses))


def test_rounding_is_no_problem():
    losses = [loss * (1 + 1e-7) for loss in GOOD[TWO]["losses"]]
    assert problems(changed(GOOD, TWO, losses=losses)) == []


# -- numbers that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["measured_s", "rank_s", "losses", "throughput", "rank_computation_s", "step_s"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, "1.0", None, True])
def test_what_is_no_number(name, value):
    many_of_it = isinstance(GOOD[TWO][name], list)
    forged = copy.deepcopy(GOOD)
    forged[TWO][name] = [value] * len(GOOD[TWO][name]) if many_of_it else value
    assert f"launch {GOOD[TWO]['number']}: {name}" in found(forged)


@pytest.mark.parametrize("name", ["measured_s", "rank_s", "rank_computation_s", "step_s"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_zero_and_negative_times(name, value):
    told = GOOD[TWO][name]
    forged = changed(GOOD, TWO, **{name: [value] * len(told) if isinstance(told, list) else value})
    assert "zero or negative" in found(forged)


def test_clocks_that_run_backwards():
    one = GOOD[TWO]
    assert "before it began" in found(changed(GOOD, TWO, began=one["ended"], ended=one["began"]))
    turned = changed(GOOD, TWO, rank_began=one["rank_ended"], rank_ended=one["rank_began"])
    assert "rank 0 ended before it began" in found(turned)
    slow = [began - 60 for began in one["rank_began"]]
    assert "by the other" in found(changed(GOOD, TWO, rank_began=slow, began=one["began"] - 60))
    renumbered = changed(GOOD, TWO, number=1000)
    assert "a clock ran backwards" in found(renumbered)


def test_constant_times():
    steps = [GOOD[TWO]["step_s"][-1]] * len(GOOD[TWO]["step_s"])
    assert "all its steps took the same time" in found(changed(GOOD, TWO, step_s=steps))
    took, blocked = GOOD[TWO]["rank_s"][0], GOOD[TWO]["rank_communication_s"][0]
    same = {"rank_s": [took] * 2, "rank_communication_s": [blocked] * 2, "rank_computation_s": [took - blocked] * 2}
    assert "of all its ranks is the same" in found(changed(GOOD, TWO, **same))
    other = place_of(GOOD, "strong", 2, 1)
    repeated = changed(GOOD, other, measured_s=GOOD[TWO]["measured_s"], throughput=GOOD[TWO]["throughput"])
    assert "the very time, to the last digit" in found(repeated)
    losses = [GOOD[TWO]["losses"][0]] * len(GOOD[TWO]["losses"])
    assert "its loss is the same" in found(changed(GOOD, TWO, losses=losses))


def test_launches_told_twice():
    said = found([*GOOD, GOOD[TWO]])
    assert "has the number of" in said and "has the content of" in said
    again = sealed([GOOD[TWO] | {"number": 1000, "repeat": 17}])
    assert "the very time" in found(GOOD + again)


def test_launches_from_elsewhere():
    machine = GOOD[TWO]["machine"] | {"cpu": "another"}
    assert "has machine" in found(changed(GOOD, TWO, machine=machine))
    assert "not what its ranks had" in found(changed(GOOD, TWO, machine=machine))
    assert "differ in processor" in found(changed(GOOD, TWO, rank_machines=["here", "there"]))
    for name in ("profile", "settings_sha256", "dtype"):
        assert "and launch" in found(changed(GOOD, TWO, **{name: "another"}))
    assert "overrides" in found(changed(GOOD, TWO, overrides=["model.num_layers=1"]))


def test_other_work_in_strong_and_in_weak_scaling():
    half = GOOD[TWO]["global_batch"] // 2
    said = found(changed(GOOD, TWO, global_batch=half))
    assert "strong scaling with different global_batch" in said
    said = found(changed(GOOD, WEAK, global_batch=2 * GOOD[WEAK]["global_batch"]))
    assert "weak scaling with different global_batch a rank" in said
    assert "trained other samples" in found(changed(GOOD, TWO, indices_sha256="others"))


def test_launches_at_the_same_time():
    assert "each disturbed the other" in found(changed(GOOD, 4, ended=GOOD[5]["began"] + 2))


# -- files that were changed ------------------------------------------------------------------------------------------


@given(place=st.integers(0, len(GOOD) - 1), data=st.data())
def test_every_change_of_a_file_shows_in_its_hash(place, data):
    name = data.draw(st.sampled_from(sorted(set(GOOD[0]) - {"sha256"})))
    forged = copy.deepcopy(GOOD)
    value = forged[place][name]
    forged[place][name] = value * 1.01 + 1 if isinstance(value, (int, float)) else [value]
    said = found(forged)
    assert f"launch {GOOD[place]['number']}" in said or f"launch at place {place + 1}" in said


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_what_is_no_launch_at_all_is_a_problem_and_no_crash(junk):
    assert len(problems([junk])) == 1
    for name in ("ranks", "cpus", "cache_bytes", "losses", "machine"):
        problems([GOOD[0] | {name: junk}])


def test_a_field_too_many_or_too_few():
    short = {key: value for key, value in GOOD[0].items() if key != "cpus"}
    assert "it has no cpus" in found([short])
    assert "which a launch has not" in found([GOOD[0] | {"extra": 1}])
    assert "for 2 ranks" in found([GOOD[TWO] | {"threads": [1]}])


def test_consistent_forgery_still_shows_as_an_efficiency_above_one():
    """All times of a launch divided by 4, clocks and all: what no single launch betrays, the factors do."""
    launches = many("strong", {1: 40.0, 2: 20.5 / 4})
    assert account.unexplained(launches, "strong") and not account.unexplained(
        many("strong", {1: 40.0, 2: 20.5}), "strong"
    )
