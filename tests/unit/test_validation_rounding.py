"""Rounding: distances in units in the last place, bounds that hold, and bounds that a mistake breaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ryzen_mpi.training.ulp import ulp_distances
from ryzen_mpi.validation.rounding import gamma, gradient_bound, probable_gamma, sum_bound, unit_roundoff

TYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.mark.parametrize("dtype", TYPES)
def test_the_next_number_is_one_away_on_both_sides_of_zero(dtype):
    tiny = torch.finfo(dtype).smallest_normal
    values = torch.tensor([1.0, -1.0, 3.5, -0.0, 0.0, tiny, -tiny], dtype=dtype)
    if dtype == torch.bfloat16:
        after = (values.view(torch.int16) + 1).view(dtype)
    else:
        after = torch.nextafter(values, torch.tensor(math.inf, dtype=dtype))
    assert ulp_distances(values, after).tolist() == [1] * 7
    assert ulp_distances(values, values).tolist() == [0] * 7
    assert ulp_distances(torch.tensor([-0.0], dtype=dtype), torch.tensor([0.0], dtype=dtype)).item() == 0


@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_distances_are_symmetric_and_zero_for_equal_numbers_only(a, b):
    one, other = torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32)
    distance = ulp_distances(one, other)
    assert distance == ulp_distances(other, one) and (int(distance) == 0) == (a == b)


def test_what_is_farther_apart_than_an_integer_holds_is_very_far():
    far = torch.tensor([-1e300, 1e300], dtype=torch.float64)
    assert ulp_distances(far, far.flip(0)).tolist() == [2**62] * 2


def test_roundoff_and_gamma_are_those_of_the_book():
    assert unit_roundoff(torch.float32) == 2**-24 and unit_roundoff(torch.bfloat16) == 2**-8
    assert gamma(3, 0.01) == pytest.approx(0.03 / 0.97)
    assert probable_gamma(10_000, 2**-24) < gamma(10_000, 2**-24)


@pytest.mark.parametrize("terms", [2, 4, 64])
def test_every_order_of_addition_stays_within_the_bound(terms):
    random = np.random.default_rng(terms)
    parts = torch.from_numpy(random.normal(size=(terms, 20_000)) * 10.0 ** random.integers(-6, 6, (terms, 1))).float()
    exact, magnitude = parts.double().sum(0), parts.double().abs().sum(0)
    bound = sum_bound(magnitude, terms, torch.float32)
    for _ in range(5):
        total = torch.zeros(20_000)
        for number in random.permutation(terms):
            total += parts[number]
        assert bool(((total.double() - exact).abs() <= bound).all())


def test_a_sum_with_a_part_left_out_or_one_bit_changed_is_outside_of_the_bound():
    parts = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 1000))).float()
    exact, magnitude = parts.double().sum(0), parts.double().abs().sum(0)
    bound = sum_bound(magnitude, 4, torch.float32)
    assert ((parts[:3].sum(0).double() - exact).abs() > bound).float().mean() > 0.99
    flipped = (parts.sum(0).view(torch.int32) ^ (1 << 12)).view(torch.float32)  # in the middle of the significand
    assert ((flipped.double() - exact).abs() > bound).float().mean() > 0.9


def test_the_gradients_bound_grows_with_depth_and_coarseness():
    narrow, wide = (gradient_bound(2, 256, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert wide < narrow < 1 and gradient_bound(4, 256, torch.float32) > wide
