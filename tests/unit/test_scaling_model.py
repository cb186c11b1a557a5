"""The documents' formula and the laws beside it: planted parameters come back, and what is missed is said."""

import math

import numpy as np
import pytest

from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling import model

PUBLISHED = {1: [13.35], 2: [87.48], 4: [270.19]}
"""Samples a second of the documents' own report."""


def planted(law, values, ranks=(1, 2, 3, 4, 8), launches=5, noise=0.003, seed=3):
    random = np.random.default_rng(seed)
    return {p: list(law(p, values) * np.exp(noise * random.standard_normal(launches))) for p in ranks}


@pytest.mark.parametrize("gain", [-0.2, 0.0, 0.05])
def test_a_planted_gain_comes_back_within_its_interval(gain):
    found = model.fit("documents", planted(model.documents, {"base": 75.0, "gain": gain}))
    fitted = found.parameters["gain"]
    assert fitted.value == pytest.approx(gain, abs=0.005) and fitted.low < gain < fitted.high
    assert found.parameters["base"].value == pytest.approx(75, rel=0.01)
    assert max(map(abs, found.residuals.values())) < 0.01 and found.left_out_error < 0.01
    each = model.gains(planted(model.documents, {"base": 75.0, "gain": gain}))
    assert set(each) == {2, 3, 4, 8} and all(one.value == pytest.approx(gain, abs=0.01) for one in each.values())


def test_planted_laws_come_back_and_predict_what_was_left_out_better_than_the_formula():
    values = {"base": 75.0, "serial": 0.06, "coherence": 0.004}
    points = planted(model.usl, values)
    found, formula = model.fit("usl", points), model.fit("documents", points)
    for name, value in values.items():
        assert found.parameters[name].value == pytest.approx(value, rel=0.15), name
    assert found.left_out_error < 0.02 < 0.05 < formula.left_out_error
    amdahl = model.fit("amdahl", planted(model.usl, {"base": 75.0, "serial": 0.1}))
    assert amdahl.parameters["serial"].value == pytest.approx(0.1, rel=0.05)
    lines = " ".join(model.misses(points))
    assert "without bound" in lines and "usl 0." in lines and "is faster among others" not in lines


def test_laws_without_scaling_loss_never_find_a_negative_one():
    found = model.fit("usl", planted(model.documents, {"base": 10.0, "gain": 0.1}))
    assert found.parameters["serial"].value >= 0 and found.parameters["coherence"].value >= 0


def test_the_published_figures_are_called_an_error_of_measurement():
    found = model.fit("documents", PUBLISHED)
    assert found.parameters["gain"].value > 2.2  # 87.48 / 26.70 and 270.19 / 53.40: 3.28 and 5.06 times the base
    assert model.gains(PUBLISHED)[4].value == pytest.approx(270.19 / 4 / 13.35 - 1)
    lines = " ".join(model.misses(PUBLISHED))
    assert "error of measurement" in lines and "4096 ranks would do" in lines
    assert found.at(4096) == pytest.approx(13.35 * 4096 * (1 + found.parameters["gain"].value))
    assert max(map(abs, found.residuals.values())) > 0.2  # one gain does not even fit its own three points


@pytest.mark.parametrize("points", [{2: [1.0], 4: [2.0]}, {1: [1.0]}, {1: [1.0], 2: [math.nan]}, {1: [0.0], 2: [1.0]}])
def test_points_that_say_nothing_are_refused(points):
    with pytest.raises(UserError):
        model.fit("documents", points)


def test_three_numbers_of_ranks_are_needed_for_three_parameters():
    with pytest.raises(UserError, match="needs 3"):
        model.fit("usl", {1: [1.0], 2: [1.9]})
    assert "nan" not in " ".join(model.misses({1: [1.0], 2: [1.9]}))
