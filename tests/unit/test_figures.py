"""Figures: the interval holds the median as often as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ryzen_mpi.figures import Figure, median


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("n", [6, 9, 20, 51])
def test_the_interval_covers_the_median_at_least_as_often_as_stated(n, confidence):
    draws = np.random.default_rng(n).lognormal(size=(1500, n))  # its median is 1
    figures = [median(row, confidence) for row in draws]
    share = np.mean([f.low <= 1.0 <= f.high for f in figures])
    assert share >= confidence - 4 * math.sqrt(confidence * (1 - confidence) / len(draws))
    assert {(f.n, f.confidence) for f in figures} == {(n, confidence)}


def test_the_interval_is_no_wider_than_the_table_gives():
    # Conover 1999, table A3: n = 20, 95 %: the 6th and the 15th of the ordered values
    figure = median(range(1, 21))
    assert (figure.low, figure.value, figure.high) == (6, 10.5, 15)


@pytest.mark.parametrize(("n", "held"), [(1, 0.0), (2, 0.5), (3, 0.75), (5, 0.9375)])
def test_few_values_give_the_range_and_say_how_much_it_holds(n, held):
    figure = median(list(range(n))[::-1])
    assert (figure.low, figure.high, figure.n) == (0, n - 1, n)
    assert figure.confidence == pytest.approx(held)


def test_no_values_give_no_figure():
    figure = median([])
    assert figure.n == 0 and all(map(math.isnan, (figure.value, figure.low, figure.high)))


def test_order_does_not_matter_and_the_input_stays():
    values = [5.0, 1.0, 3.0, 2.0, 4.0, 9.0, 7.0]
    assert median(values) == median(sorted(values)) and values[0] == 5.0


def test_a_falling_function_swaps_the_bounds():
    rate = Figure(2.0, 1.0, 4.0, 9, 0.9).mapped(lambda seconds: 8 / seconds)
    assert rate == Figure(4.0, 2.0, 8.0, 9, 0.9)
