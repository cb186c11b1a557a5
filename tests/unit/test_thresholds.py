"""Thresholds are data: every phase has both sets, each number its source, and what is wrong in a file is named."""

from __future__ import annotations

import pytest

from ryzen_mpi.cluster.phases import PHASES
from ryzen_mpi.errors import UserError
from ryzen_mpi.validation.lists import read_lists
from ryzen_mpi.validation.registry import all_checks
from ryzen_mpi.validation.result import Measured
from ryzen_mpi.validation.thresholds import SETS, Threshold, load_rules


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("which", SETS)
def test_every_phase_has_thresholds_with_sources_for_checks_that_exist(phase, which):
    rules = load_rules(phase, which)
    assert len(rules.thresholds) >= 10 and set(rules.thresholds) <= set(all_checks())
    assert (rules.ranks, rules.nodes) == (PHASES[phase].ranks, PHASES[phase].nodes)
    for check, figures in rules.thresholds.items():
        assert figures, check
        assert all(threshold.source for threshold in figures.values())


@pytest.mark.parametrize("name", read_lists())
def test_the_lists_name_checks_that_exist(name):
    assert set(read_lists()[name].checks) <= set(all_checks())


def test_the_sound_set_allows_no_efficiency_above_one_and_the_published_asks_for_it():
    sound, published = (load_rules("2a", which).thresholds["scaling"]["efficiency"] for which in SETS)
    assert sound.limit == 1 and sound.at_least < 1 < published.at_least == 1.05
    assert published.limit == 1, "a set of thresholds does not change what can be true"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sound: {gloo: {x: {at_least: 1, unit: s}}}", "source"),
        ("sound: {gloo: {x: {at_least: 1, at_most: 2, unit: s, source: a}}}", "one of them"),
        ("sound: {gloo: {x: {at_leest: 1, unit: s, source: a}}}", "at_leest"),
        ("extends: phase1", "extends itself"),
        ("extends: nothing", "can't be read"),
        ("a: [", "no YAML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(tmp_path, text, told):
    (tmp_path / "phase1.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        load_rules("1", "sound", tmp_path)
    assert told in str(raised.value) and str(tmp_path) in str(raised.value)


def test_a_file_adds_to_the_one_it_extends_figure_by_figure(tmp_path):
    line = "{{at_least: {}, unit: s, source: a}}"
    (tmp_path / "base.yaml").write_text(f"sound: {{a: {{x: {line.format(1)}, y: {line.format(2)}}}}}")
    (tmp_path / "phase1.yaml").write_text(
        f"extends: base\nsound: {{a: {{y: {line.format(3)}}}}}\npublished: {{a: {{x: {line.format(9)}}}}}"
    )
    sound, published = (load_rules("1", which, tmp_path).thresholds["a"] for which in SETS)
    assert (sound["x"].at_least, sound["y"].at_least) == (1, 3)
    assert (published["x"].at_least, published["y"].at_least) == (9, 3)


@pytest.mark.parametrize(
    ("bound", "value", "low", "high", "expected"),
    [
        ({"at_most": 10, "no_go": 20}, 5, 4, 6, "met"),
        ({"at_most": 10, "no_go": 20}, 9, 8, 11, "too short"),
        ({"at_most": 10, "no_go": 20}, 15, 14, 16, "not met"),
        ({"at_most": 10, "no_go": 20}, 25, 24, 26, "no-go"),
        ({"at_least": 10}, 10, None, None, "met"),
        ({"at_most": 0, "counted": True}, 0, 0, 1e-9, "met"),
        ({"at_most": 0, "counted": True}, 1e-9, 0, 2e-9, "not met"),
        ({"at_least": 10, "unmet": "INSUFFICIENT"}, 9, None, None, "too short"),
    ],
)
def test_a_figure_is_judged_by_the_worse_end_of_its_interval(bound, value, low, high, expected):
    threshold = Threshold(unit="s", source="a", **bound)
    assert threshold.compare(Measured("x", value, "s", 5, low, high))[0] == expected
