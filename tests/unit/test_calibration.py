"""Calibration files: what was measured reads back, what was changed, cut short or made of something else is refused."""

import json

import calibrations
import numpy as np
import pytest

from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling.calibrate import assemble, checkpoint
from ryzen_mpi.scaling.calibration import KIND, digest, read
from ryzen_mpi.scaling.draws import draw, launch_spread
from ryzen_mpi.scaling.reliability import failures_of
from ryzen_mpi.scaling.request import Request, shares_around


@pytest.fixture
def measured(tmp_path):
    path = tmp_path / "calibration.json"
    calibrations.measured(np.random.default_rng(1), rounds=4).write(path)
    return path


def rewritten(path, change, rehash=False):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content | ({"sha256": digest(content)} if rehash else {})))
    return path


def test_what_was_measured_reads_back_and_gives_the_same_draws(measured):
    one, other = read(measured), read(measured)
    assert one == other and len(one.launches) == 6
    size = calibrations.GRADIENT_BYTES
    first, again = draw(one, size, 10), draw(other, size, 10)
    assert [v.step_s for v in first] == [v.step_s for v in again] and len({v.step_s for v in first}) > 5
    one.check_model(calibrations.settings())


def faster(content):
    content["launches"][0]["cells"]["alone:16"]["turn_s"][0] *= 0.5


def more_cores(content):
    content["cores"] = 64


@pytest.mark.parametrize("change", [faster, more_cores, lambda content: content.pop("sha256")])
def test_a_measured_file_that_was_edited_is_refused(measured, change):
    with pytest.raises(UserError, match="changed after it was measured"):
        read(rewritten(measured, change))


def test_a_file_cut_short_or_of_something_else_is_refused(measured, tmp_path):
    text = measured.read_text()
    for content, message in (
        (text[: len(text) // 2], "no JSON, or was cut short"),
        ("[]", "is no calibration"),
        (json.dumps({"kind": "osu_latency"}), "is no calibration"),
        (json.dumps({"kind": KIND, "format": 99}), "format 99"),
        (json.dumps({"kind": KIND, "format": 1}), "lacks what a calibration needs"),
        (json.dumps({"kind": KIND, "format": 1, "threads": 1, "cores": 2, "memory_bytes": 9}), "either launches"),
        (json.dumps({"kind": KIND, "format": 1, "threads": 0, "cores": 2, "memory_bytes": 9}), "at least 1"),
    ):
        measured.write_text(content)
        with pytest.raises(UserError, match=message):
            read(measured)
    with pytest.raises(UserError, match="can't be read"):
        read(tmp_path / "nowhere.json")


def test_a_calibration_of_another_model_is_refused_with_what_differs(measured):
    with pytest.raises(UserError, match=r"of another model: model.num_layers=3 \(calibration: 2\)"):
        read(measured).check_model(calibrations.settings(model__num_layers=3))
    calibrations.by_hand().check_model(calibrations.settings(model__num_layers=3))  # claims no model


def test_one_without_launches_of_both_kinds_is_refused(measured):
    found = read(measured)
    alone = [one for one in found.launches if one["ranks"] == 1]
    with pytest.raises(UserError, match="lacks launches"):
        draw(assemble(calibrations.settings(), 1, 2, alone), 1)


def test_figures_by_hand_read_back_as_they_were_given(tmp_path):
    calibrations.by_hand().write(tmp_path / "hand.json")
    found = read(rewritten(tmp_path / "hand.json", lambda content: content.pop("sha256")))
    assert found == calibrations.by_hand()
    draws = draw(found, 1, 200)
    assert draws[0].contention == 0.02 and 0.009 < np.percentile([v.contention for v in draws], 2.5) < 0.014
    assert checkpoint(found)[0] == 0.5


@pytest.mark.parametrize(
    "change, message",
    [
        ({"contention": {"value": 0.1, "low": 0.2, "high": 0.3}}, "not in this order"),
        ({"contention": -1}, "greater than or equal to 0"),
        ({"step_s": {}}, "at least 1"),
        ({"step_s": {"16": 0}}, "times above 0"),
        ({"straggler_quantiles": [1.0, 0.0]}, "not ascending"),
        ({"network_latency_s": None}, "belong together"),
        ({"straggler_theta": 2}, "at most 1"),
        ({"latency": 1}, "not permitted"),
        ({"node_s_per_byte": "fast"}, "node_s_per_byte"),
    ],
)
def test_figures_by_hand_that_make_no_sense_are_refused(tmp_path, change, message):
    calibrations.by_hand().write(tmp_path / "hand.json")
    with pytest.raises(UserError, match=message):
        read(rewritten(tmp_path / "hand.json", lambda content: content["parameters"].update(change)))


def test_the_spread_between_launches_comes_back():
    random = np.random.default_rng(8)
    found = calibrations.launches(random, count=40, spread=0.05, rounds=3)
    groups = {"one": [one for one in found if one["ranks"] == 1], "two": [one for one in found if one["ranks"] == 2]}
    spread, freedom = launch_spread(groups)
    assert freedom == 78 and spread == pytest.approx(0.05, rel=0.25)
    assert launch_spread({"one": groups["one"][:1], "two": []}) == (0.0, 0)


def test_failures_are_read_from_the_account_of_a_supervised_run(tmp_path):
    folder = tmp_path / "supervisor"
    folder.mkdir()
    with pytest.raises(UserError, match="can't be read"):
        failures_of(tmp_path)
    for faults, expected in ((4, 9000.0), (0, 12000.0)):
        (folder / "summary.json").write_text(json.dumps({"faults": faults, "total_s": 36000.0}))
        assert failures_of(tmp_path)["mtbf_node_s"] == expected
    (folder / "summary.json").write_text('{"faults": 1}')
    with pytest.raises(UserError, match="no supervisor's summary"):
        failures_of(tmp_path)


def test_a_request_reads_back_and_shares_surround_the_micro_batch(tmp_path):
    asked = Request("default", ("a.b=1",), 2, 3, 4, ("compute",), (1, 2), "folder", "answer")
    asked.write(tmp_path / "request.json")
    assert Request.read(tmp_path / "request.json") == asked
    assert shares_around(16) == (4, 8, 16, 32) and shares_around(1) == (1, 2)
