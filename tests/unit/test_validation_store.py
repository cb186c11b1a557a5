"""A results folder: what was written is read back, what was changed is found, and nothing is written over."""

from __future__ import annotations

import json
import math

import pytest
from gate_results import figure, good, result

from ryzen_mpi.errors import UserError
from ryzen_mpi.validation import store
from ryzen_mpi.validation.authority import judge_folder, walk
from ryzen_mpi.validation.result import Damaged, Findings, Measured, seal, unseal


def test_a_result_is_read_back_as_it_was():
    odd = result(1, "odd", Measured("x", math.nan, "s", 2, None, math.inf, (1.0, math.nan), "why"))
    back = unseal(json.loads(json.dumps(seal(odd))))
    assert repr(back) == repr(odd)


@pytest.mark.parametrize("key", ["value", "n", "unit", "samples"])
def test_any_change_is_found(key):
    content = seal(good()[0])
    content["findings"]["figures"][0][key] = {"value": 300.0, "n": 5, "unit": "s", "samples": []}[key]
    with pytest.raises(Damaged, match="changed after"):
        unseal(content)


@pytest.mark.parametrize("content", [None, [], {}, {"sha256": "x"}, "text", 3])
def test_what_is_no_result_is_damaged(content):
    with pytest.raises(Damaged):
        unseal(content)


def test_results_are_numbered_and_never_written_over(tmp_path):
    campaign = store.create(tmp_path / "results", "2a")
    assert store.create(tmp_path / "results", "2a") == campaign == store.open_campaign(tmp_path / "results")
    for _ in range(2):
        number = campaign.next_number()
        campaign.add(result(number, "gloo", figure("x", 1.0, "1"), campaign=campaign.identity, phase="2a"))
    assert [path.name for path in sorted(campaign.results.iterdir())] == ["0001-gloo.json", "0002-gloo.json"]


def test_a_file_under_another_name_or_cut_short_is_damaged(tmp_path):
    campaign = store.create(tmp_path, "1")
    path = campaign.add(result(1, "gloo", figure("x", 1.0, "1")))
    (campaign.results / "0002-gloo.json").write_text(path.read_text())
    (campaign.results / "0003-gloo.json").write_text(path.read_text()[:-40])
    (campaign.results / "notes.json").write_text("{}")
    kept, damaged = campaign.read()
    assert len(kept) == 1 and [line.split(":")[0] for line in damaged] == [
        "0002-gloo.json",
        "0003-gloo.json",
        "notes.json",
    ]
    assert judge_folder("1", tmp_path, "sound").verdict == "INVALID"


def test_a_folder_of_another_phase_is_refused_for_writing_and_invalid_for_judging(tmp_path):
    store.create(tmp_path, "2a")
    with pytest.raises(UserError, match="of phase 2a, not 1"):
        store.create(tmp_path, "1")
    assert judge_folder("1", tmp_path, "sound").verdict == "INVALID"


def test_what_is_no_results_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no results folder"):
        store.open_campaign(tmp_path)
    (tmp_path / "campaign.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        store.open_campaign(tmp_path)


def test_two_at_a_time_are_refused(tmp_path):
    campaign = store.create(tmp_path, "1")
    campaign.lock()
    with pytest.raises(UserError, match="in use by process"):
        campaign.lock()


def test_the_walk_stops_at_the_first_phase_that_is_not_go(tmp_path):
    walked = walk(tmp_path, "sound")
    assert [(step.phase, step.verdict) for step in walked.steps] == [("1", "INSUFFICIENT")]
    assert "no phase is passed" in walked.sentence
    store.create(tmp_path / "validation-1", "1")
    assert "was not run" in walk(tmp_path, "sound").steps[0].reason


def test_the_figures_are_kept_as_hdf5_with_units(tmp_path):
    import h5py

    campaign = store.create(tmp_path, "1")
    store.export(campaign, [*good(), result(9, "empty", findings=Findings())])
    with h5py.File(tmp_path / "metrics.h5") as file:
        dataset = file["speed/0001/throughput"]
        assert dataset[()] == 260.0 and dataset.attrs["units"] == "samples/s" and dataset.attrs["n"] == 4
        assert list(file["speed/0001/throughput_samples"]) == [255.0, 260.0, 262.0, 261.0]
        assert math.isnan(file["heat/0003/temperature"][()])
