"""Statistics of the checks: against their tables, and how often they are wrong on data whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ryzen_mpi.validation.statistics import (
    drift,
    equivalence,
    rate_bound,
    robust_deviation,
    share_bound,
    spikes,
    trials_for,
)


def test_a_claim_of_99_99_percent_rests_on_29956_clean_trials():
    assert trials_for(0.9999) == 29_956
    assert share_bound(29_956, 29_956) >= 0.9999 > share_bound(29_955, 29_955)


def test_the_bound_of_a_share_is_the_rule_of_three_without_failures_and_lower_with_them():
    assert share_bound(1000, 1000) == pytest.approx(0.05 ** (1 / 1000)) == pytest.approx(1 - 3 / 1000, abs=1e-5)
    assert share_bound(999, 1000) == pytest.approx(1 - 4.744 / 1000, abs=1e-5)  # the Poisson table's 95 % for one event
    assert share_bound(0, 10) == share_bound(0, 0) == 0.0


@pytest.mark.parametrize("share", [0.9, 0.99])
def test_the_bound_of_a_share_is_above_the_truth_in_at_most_one_of_twenty_experiments(share):
    random = np.random.default_rng(3)
    wrong = np.mean([share_bound(int(good), 200) > share for good in random.binomial(200, share, 4000)])
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_no_failure_in_a_time_bounds_the_rate_by_three_over_it():
    assert rate_bound(0, 24.0) == pytest.approx(2.9957 / 24, rel=1e-4)
    assert rate_bound(1, 24.0) == pytest.approx(4.7439 / 24, rel=1e-4)
    assert rate_bound(0, 0.0) == math.inf


@pytest.mark.parametrize("n", [4, 8, 20])
def test_equivalence_of_what_differs_by_the_margin_is_shown_in_at_most_one_of_twenty_experiments(n):
    random = np.random.default_rng(n)
    shown = np.mean([equivalence(random.normal(0.01, 0.004, n), 0.01).holds for _ in range(3000)])
    assert shown <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)


def test_equivalence_of_the_same_is_shown_and_of_twice_the_margin_never():
    random = np.random.default_rng(1)
    same = [equivalence(random.normal(0, 0.002, 6), 0.01).holds for _ in range(500)]
    other = [equivalence(random.normal(0.02, 0.002, 6), 0.01).holds for _ in range(500)]
    assert np.mean(same) > 0.99 and not any(other)


def test_too_few_pairs_and_what_is_not_finite_show_nothing_and_equal_pairs_all():
    assert not equivalence([], 0.01).holds and not equivalence([0.0], 0.01).holds
    assert not equivalence([0.0, math.nan, 0.0], 0.01).holds and not equivalence([0.0, math.inf], 0.01).holds
    assert equivalence([0.0, 0.0, 0.0], 0.01).holds
    interval = equivalence([1.0, 2.0, 3.0], 9.0)  # t(2, 0.95) = 2.920
    assert (interval.mean, interval.high) == (2.0, pytest.approx(2 + 2.920 / math.sqrt(3), abs=1e-3))


def test_a_slow_drift_is_found_under_noise_and_outliers_and_none_where_there_is_none():
    random = np.random.default_rng(5)
    at = np.arange(60.0)
    noise = random.normal(0, 1.0, 60)
    noise[::10] -= 30  # a checkpoint now and then
    falling, level = drift(at, 100 - 0.1 * at + noise), drift(at, 100 + noise)
    assert falling.high < 0 and falling.low < -0.1 < falling.high
    assert level.low < 0 < level.high


def test_an_interval_of_drift_leaves_out_a_level_series_in_at_most_one_of_twenty():
    random = np.random.default_rng(6)
    slopes = [drift(range(40), random.normal(100, 1, 40)) for _ in range(600)]
    wrong = np.mean([not slope.low <= 0 <= slope.high for slope in slopes])
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


def test_a_long_series_is_thinned_and_a_short_one_has_no_slope():
    slope = drift(range(200_000), 3.0 * np.arange(200_000))
    assert slope.n == 1000 and slope.value == pytest.approx(3.0)
    assert math.isnan(drift([1, 2], [1, 2]).value) and math.isnan(drift([], []).value)


def test_a_spike_is_found_on_a_falling_curve_and_a_value_that_is_no_number_is_one():
    random = np.random.default_rng(7)
    curve = 3 * np.exp(-np.arange(400) / 80) + 1 + random.normal(0, 0.02, 400)
    assert spikes(curve) == []
    curve[200] += 0.5
    curve[0] += 3.0
    curve[399] += 0.5
    curve[50] = math.nan
    assert spikes(curve) == [0, 50, 200, 399]


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_a_hundred_thousand_healthy_steps_have_no_spike(tails):
    random = np.random.default_rng(8)
    noise = random.normal(size=100_000) if tails == "normal" else random.standard_t(12, size=100_000)
    assert spikes(2.0 + 0.05 * noise) == []


def test_a_constant_series_with_rounding_and_one_of_a_few_values_have_no_spikes():
    series = np.full(300, 1.0)
    series[::7] += 1e-7
    assert spikes(series) == [] and spikes([1.0, 2.0]) == [] and spikes([]) == []


def test_deviation_is_that_of_a_normal_sample_and_none_of_nothing():
    sample = np.random.default_rng(9).normal(100, 2, 5000)
    assert robust_deviation(sample) == pytest.approx(0.02, rel=0.05)
    assert math.isnan(robust_deviation([])) and math.isnan(robust_deviation([1.0, math.nan]))
