"""Speedup, efficiency and their factors: the identity, known values, and what an efficiency above 1 needs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scaling_launches import made, many

from ryzen_mpi.scaling import account
from ryzen_mpi.scaling.estimate import geometric, hodges_lehmann

SECONDS = st.floats(1e-3, 1e5)


@given(base=SECONDS, mode=st.sampled_from(["strong", "weak"]), data=st.data())
def test_the_factors_multiply_to_the_efficiency_exactly(base, mode, data):
    computation = data.draw(st.lists(SECONDS, min_size=2, max_size=16))
    measured = max(computation) * data.draw(st.floats(1, 10))
    one, several = made(mode, [base], base), made(mode, computation, measured)
    factors = account.decompose(one, several)
    product = factors.load_balance * factors.communication_efficiency * factors.computation_scaling
    assert math.isclose(product, factors.efficiency, rel_tol=1e-12)
    share = len(computation) if mode == "strong" else 1
    assert math.isclose(factors.efficiency, base / (share * measured), rel_tol=1e-12)
    assert factors.load_balance <= 1 + 1e-12 and factors.communication_efficiency <= 1


@given(base=SECONDS, other=SECONDS, mode=st.sampled_from(["strong", "weak"]))
def test_one_rank_is_its_own_base_and_all_of_its_time_is_computation(base, other, mode):
    one = made(mode, [base / 2], base)  # whatever it calls communication
    assert account.decompose(one, one) == account.Factors(1.0, 1.0, 1.0, 1.0)
    again = account.decompose(one, made(mode, [other], other))
    assert again.efficiency == again.computation_scaling and again.load_balance == 1


def test_known_factors_are_recovered():
    # base 40 s; 4 ranks compute 8, 9, 10 and 9 s of 12.5
    factors = account.decompose(made("strong", [40], 40), made("strong", [8, 9, 10, 9], 12.5))
    assert factors.efficiency == pytest.approx(40 / 50)
    assert factors.load_balance == pytest.approx(0.9)
    assert factors.communication_efficiency == pytest.approx(0.8)
    assert factors.computation_scaling == pytest.approx(40 / 36)
    weak = account.decompose(made("weak", [10], 10), made("weak", [10, 12], 16))
    assert (weak.efficiency, weak.computation_scaling) == pytest.approx((10 / 16, 10 / 11))


def test_a_series_recovers_what_the_launches_were_made_of():
    series = account.series(many("strong", {1: 40.0, 2: 22.0, 4: 12.5}), "strong")
    one, two, four = series["points"]
    assert [point["ranks"] for point in series["points"]] == [1, 2, 4]
    assert one["speedup"]["value"] == one["efficiency"]["low"] == 1
    assert two["efficiency"]["value"] == pytest.approx(40 / 44, rel=0.005)
    assert four["speedup"]["value"] == pytest.approx(3.2, rel=0.005)
    assert four["speedup"]["low"] < four["speedup"]["value"] < four["speedup"]["high"]
    assert four["throughput"]["unit"] == "samples/s" and four["throughput"]["n"] == four["launches"] == 5
    assert account.series(many("strong", {1: 40.0}), "weak") is None


def test_a_launch_is_compared_with_the_base_of_its_own_repeat():
    """The machine is half as fast in the second repeat: the efficiency is the same in both."""
    launches = [made("strong", [s], s, k) for k, s in enumerate((10, 20))]
    launches += [made("strong", [s, s], s, k) for k, s in enumerate((6.25, 12.5))]
    point = account.points(launches, "strong")[1]
    assert [factors.efficiency for factors in point.factors] == pytest.approx([0.8, 0.8])
    without_base = [launch for launch in launches if (launch.ranks, launch.repeat) != (1, 1)]
    assert len(account.points(without_base, "strong")[1].launches) == 1


# -- intervals --------------------------------------------------------------------------------------------------------


def test_hodges_lehmann_gives_the_textbooks_answer():
    """Hollander, Wolfe & Chicken, example 3.1 and 3.3: Hamilton depression scale, n=9: -0.46 and (-0.786, -0.010)."""
    differences = [-0.952, 0.147, -1.022, -0.430, -0.620, -0.590, -0.490, 0.080, -0.010]
    figure = hodges_lehmann(differences, 0.96)
    assert figure.value == pytest.approx(-0.46)
    assert (figure.low, figure.high) == pytest.approx((-0.786, -0.010))
    assert figure.confidence == pytest.approx(0.961, abs=1e-3)


@pytest.mark.parametrize(("n", "holds"), [(1, 0.0), (2, 0.5), (3, 0.75), (5, 0.9375), (6, 0.96875)])
def test_an_interval_says_how_much_it_holds(n, holds):
    figure = hodges_lehmann([float(i) for i in range(n)])
    assert figure.confidence == holds and (figure.low, figure.high) == (0.0, n - 1.0)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    import numpy as np

    generator = np.random.default_rng(7)
    figures = [hodges_lehmann(list(generator.standard_t(3, 8))) for _ in range(2000)]
    held = sum(figure.low <= 0 <= figure.high for figure in figures) / len(figures)
    assert abs(held - figures[0].confidence) < 0.02


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9))
def test_the_estimate_of_the_inverse_is_the_inverse_of_the_estimate(values):
    figure, inverse = geometric(values), geometric([1 / value for value in values])
    assert inverse.value == pytest.approx(1 / figure.value)
    assert (inverse.low, inverse.high) == pytest.approx((1 / figure.high, 1 / figure.low))


# -- above 1 ----------------------------------------------------------------------------------------------------------


def above_one(**fields) -> list:
    """Strong scaling with an efficiency of 1.25 at 2 ranks; `fields` are of the launches with 2 ranks."""
    return many("strong", {1: 40.0}) + many("strong", {2: 16.0}, **fields)


def test_an_efficiency_above_one_that_nothing_explains_is_a_problem():
    (problem,) = account.unexplained(above_one(), "strong")
    assert "2 ranks have an efficiency of 1.25" in problem and "computation scaling of 1.25" in problem
    assert account.unexplained(many("strong", {1: 40.0, 2: 20.5}), "strong") == []


def test_a_working_set_that_came_to_fit_a_cache_explains_it():
    launches = above_one(working_set_bytes=12 << 20)
    assert account.unexplained(launches, "strong") == []
    explained = account.series(launches, "strong")["points"][1]["explained"]
    assert "12.0 MiB" in explained and "level-3 cache (16.0 MiB)" in explained and "64.0 MiB" in explained


def test_a_working_set_that_fitted_before_explains_nothing():
    launches = many("strong", {1: 40.0, 2: 16.0}, working_set_bytes=12 << 20)
    assert len(account.unexplained(launches, "strong")) == 1


def test_a_clock_explains_as_much_as_it_rose():
    assert account.unexplained(above_one(clock_mhz=2600.0 * 1.26), "strong") == []
    assert len(account.unexplained(above_one(clock_mhz=2600.0 * 1.1), "strong")) == 1
    assert len(account.unexplained(above_one(clock_mhz=None), "strong")) == 1


def test_noise_around_one_is_no_problem():
    """Every second pair is above 1: the lower bound is below."""
    launches = []
    for repeat, seconds in enumerate((19.0, 21.0, 19.5, 20.5, 20.0)):
        launches += [made("strong", [40], 40, repeat), made("strong", [seconds] * 2, seconds, repeat)]
    assert account.unexplained(launches, "strong") == []


def test_a_single_launch_far_above_one_is_a_problem_too():
    launches = [made("strong", [40], 40), made("strong", [5, 5], 5)]
    assert len(account.unexplained(launches, "strong")) == 1
    assert account.unexplained([made("strong", [40], 40), made("strong", [19.9] * 2, 19.9)], "strong") == []


def test_too_few_launches_and_too_short_ones_are_named():
    launches = many("strong", {1: 40.0, 2: 22.0}, repeats=4)
    short = account.shortages(launches, {"strong": [1, 2, 4]})
    assert any("4 of at least 5 launches with 2 ranks" in text for text in short)
    assert any("0 of at least 5 launches with 4 ranks" in text for text in short)
    assert account.shortages(many("strong", {1: 40.0, 2: 22.0}), {"strong": [1, 2]}) == []
    assert "less than 1 s" in account.shortages(many("weak", {1: 0.5}), {"weak": [1]})[0]
