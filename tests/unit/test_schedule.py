"""The learning rate of every step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryzen_mpi.config import Training
from ryzen_mpi.training.schedule import learning_rate


def rates(total: int, **settings) -> list[float]:
    training = Training(learning_rate=1.0, **settings)
    return [learning_rate(step, total, training) for step in range(total)]


def test_warm_up_rises_in_equal_steps_to_the_full_rate():
    assert rates(10, warmup_steps=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_cosine_is_half_way_in_the_middle_and_ends_at_the_minimum():
    training = Training(learning_rate=1.0, min_learning_rate_ratio=0.2, warmup_steps=10)
    assert learning_rate(60, 110, training) == pytest.approx(0.6)
    assert learning_rate(110, 110, training) == pytest.approx(0.2)
    assert learning_rate(500, 110, training) == pytest.approx(0.2)


def test_constant_stays():
    assert rates(5, warmup_steps=1, schedule="constant") == [1.0] * 5


def test_a_run_shorter_than_its_warm_up_still_reaches_the_full_rate():
    assert rates(4, warmup_steps=1000)[-1] == 1.0


@given(st.integers(1, 300), st.integers(0, 400), st.floats(0, 1), st.sampled_from(["cosine", "constant"]))
def test_the_rate_rises_then_never_rises_again_and_stays_in_bounds(total, warmup, low, schedule):
    made = rates(total, warmup_steps=warmup, min_learning_rate_ratio=low, schedule=schedule)
    top = min(warmup, total)
    assert made[:top] == sorted(made[:top])
    assert all(later <= earlier + 1e-12 for earlier, later in zip(made[top:], made[top + 1 :], strict=False))
    assert all(0 < rate <= 1 for rate in made[:top]) and all(low - 1e-12 <= rate <= 1 for rate in made[top:])
