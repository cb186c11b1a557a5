"""Reading what reports are made of: whole, half-written, empty, damaged, edited."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import report_inputs as inputs

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.events import EventLog
from ryzen_mpi.report.content import Shown
from ryzen_mpi.report.read_run import read_run
from ryzen_mpi.report.results_facts import by_the_gate, parse_verdict, read_results
from ryzen_mpi.report.run_report import run_headline, run_report
from ryzen_mpi.report.scaling_facts import read_scaling
from ryzen_mpi.validation import authority
from ryzen_mpi.validation.thresholds import load_rules


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return inputs.write_run(tmp_path_factory.mktemp("runs") / "example")


def copied(written, tmp_path, *left_out):
    """A copy of the run without some of its files."""
    import shutil

    target = tmp_path / "run"
    shutil.copytree(written, target)
    for name in left_out:
        path = target / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return target


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_is_read_as_it_was_written(written):
    facts = read_run(written)
    assert facts.steps.step.tolist() == list(range(1, 241)) and facts.missing == ()
    assert facts.steps.rank_step_s.shape == (240, 4)
    assert [step for step, *_ in facts.held_out] == [60, 120, 180, 240]
    assert [step for step, _ in facts.checkpoints] == [50, 100, 150, 200]
    assert facts.complete["steps"] == 240 and facts.account["ettr"] == 0.8875
    assert facts.settings["training"]["save_interval"] == 50


def test_a_fault_becomes_a_restart_at_the_step_it_went_on_from(written):
    (restart,) = read_run(written).restarts
    assert restart.step == 100 and not restart.planned and "rank 2 on node1 was killed by SIGKILL" in restart.why


def test_the_places_are_those_the_ranks_recorded(written):
    places = read_run(written).places
    assert [sorted(place.cpus) for place in places] == [[0, 1], [2, 3], [4, 5], [4, 5]]
    assert {place.host for place in places} == {"node1"}


def test_a_start_by_hand_is_a_planned_restart_and_a_smaller_world_has_no_places_left_over(tmp_path):
    run = inputs.write_run(tmp_path / "run", fault=False)
    log = EventLog(run / "events", 0, {"node": "node1"})
    log.event("start", "rank 0 of 2 at step 240", step=240, ranks=2, cpus="0-3", threads=4)
    log.close()
    facts = read_run(run)
    assert [(restart.step, restart.planned) for restart in facts.restarts] == [(240, True)]
    assert [place.rank for place in facts.places] == [0, 1]


def test_going_back_within_an_attempt_is_a_restart_that_says_why(tmp_path):
    run = inputs.write_run(tmp_path / "run", fault=False)
    log = EventLog(run / "events", 0, {"node": "node1"})
    log.event("back", "the ranks' weights are not the same at step 220", "warning", step=220)
    log.event("start", "rank 0 of 4 at step 200", step=200, ranks=4, cpus="0-1", threads=2)
    log.close()
    (restart,) = read_run(run).restarts
    assert (restart.step, restart.planned) == (200, False) and "weights are not the same" in restart.why


def test_a_resize_that_was_asked_for_is_planned(tmp_path):
    run = inputs.write_run(tmp_path / "run", fault=False)
    voice = EventLog(run / "events", "supervisor")
    voice.event("attempt", "attempt 1", epoch=1, ranks=4)
    voice.event("resize", "someone asks for resize to 2 ranks", ranks=2)
    voice.event("attempt", "attempt 2", epoch=2, ranks=2)
    voice.close()
    restarts = [restart for restart in read_run(run).restarts if "resize" in restart.why]
    assert len(restarts) == 1 and restarts[0].planned and restarts[0].step is None


def test_the_event_log_stands_in_for_metrics_that_are_missing_or_damaged(written, tmp_path):
    whole = read_run(written).steps
    for number, damage in enumerate((b"", b"no HDF5 at all", None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = copied(written, folder, "metrics.h5")
        if damage is not None:
            (run / "metrics.h5").write_bytes(damage)
        facts = read_run(run)
        assert any("the steps are taken from rank-0000.jsonl" in text for text in facts.missing)
        for name in ("step", "loss", "rank_step_s", "batch"):
            assert np.array_equal(getattr(facts.steps, name), getattr(whole, name), equal_nan=True), name


def test_steps_trained_again_count_once_in_the_event_log(written, tmp_path):
    run = copied(written, tmp_path, "metrics.h5")
    log = EventLog(run / "events", 0)
    for step in range(200, 221):
        log.write(inputs.record(step, loss=9.0))
    log.close()
    steps = read_run(run).steps
    assert steps.step.tolist() == list(range(1, 221)) and np.all(steps.loss[199:] == 9.0)


def test_damaged_metrics_with_nothing_to_stand_in_are_refused(written, tmp_path):
    run = copied(written, tmp_path, "events")
    (run / "metrics.h5").write_bytes(b"no HDF5 at all")
    with pytest.raises(UserError, match="not a file of metrics, or damaged"):
        read_run(run)


@pytest.mark.parametrize("name", ["config.yaml", "COMPLETE.json", "events", "supervisor", "checkpoints", "metrics.h5"])
def test_a_run_without_one_of_its_parts_still_gives_a_report(written, tmp_path, name):
    report = run_report(read_run(copied(written, tmp_path, name)), inputs.NOW)
    said = [text for section in report.sections if section.title == "Missing" for text in section.text]
    assert bool(said) == (name not in ("supervisor", "checkpoints"))


def test_a_run_that_has_only_just_begun_gives_a_report_that_says_what_is_missing(tmp_path):
    (tmp_path / "config.yaml").write_text("training: {}\n")
    report = run_report(read_run(tmp_path), inputs.NOW)
    assert report.headline.verdict == "Nothing trained"
    assert any("nothing was recorded of any step" in text for text in report.sections[-1].text)
    assert all(figure.value is None for figure in report.key)


@pytest.mark.parametrize(
    "name, content",
    [
        ("COMPLETE.json", "{"),
        ("COMPLETE.json", "[]"),
        ("FAILED.json", "\x00"),
        ("config.yaml", "a: [b"),
        ("config.yaml", "- a list"),
        ("supervisor/summary.json", "3"),
    ],
)
def test_damaged_documents_count_as_absent_and_are_told(written, tmp_path, name, content):
    run = copied(written, tmp_path)
    (run / name).write_text(content)
    facts = read_run(run)
    assert any(name.rpartition("/")[2] in text and "damaged" in text for text in facts.missing)
    run_report(facts, inputs.NOW)


def test_torn_and_foreign_lines_of_the_logs_are_passed_over(written, tmp_path):
    run = copied(written, tmp_path)
    with (run / "events" / "rank-0001.jsonl").open("ab") as file:
        file.write(b'{"event": 3}\n[]\n{"event": {"action": "start"}, "@timestamp": "soon"}\n\xff\xfe\n{"eve')
    assert len(read_run(run).places) == 4


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_what_is_no_run_directory_is_refused(tmp_path, make):
    path = tmp_path / "nothing"
    make(path)
    with pytest.raises(UserError, match="no run directory"):
        read_run(path)


def test_the_headline_tells_how_the_run_ended(written, tmp_path):
    complete = read_run(written)
    assert run_headline(complete, inputs.NOW).verdict == "Complete"
    open_ended = dataclasses.replace(complete, complete=None)
    assert run_headline(open_ended, open_ended.sign_s + 10).verdict == "Under way"
    assert run_headline(open_ended, open_ended.sign_s + 1e5).verdict == "Broke off"
    stopped = dataclasses.replace(open_ended, stopped="stopped by SIGUSR1")
    assert run_headline(stopped, inputs.NOW).verdict == "Stopped"
    failed = dataclasses.replace(open_ended, failed={"why": "no node answers"})
    assert run_headline(failed, inputs.NOW) == run_headline(failed, 0)
    assert "no node answers" in run_headline(failed, inputs.NOW).text


# -- scaling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda c: c.pop("strong"), "'strong' is missing"),
        (lambda c: c.update(format=2), "has format 2"),
        (lambda c: c.update(problems="one"), "not a list of sentences"),
        (lambda c: c["strong"]["points"][0].update(throughput=None), "damaged"),
        (lambda c: c.update(launches=3), "damaged"),
    ],
)
def test_a_damaged_scaling_report_is_refused_with_what_is_wrong(tmp_path, change, match):
    content = inputs.scaling()
    change(content)
    path = tmp_path / "scaling.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=match):
        read_scaling(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"format": 1}'])
def test_what_is_no_scaling_report_is_refused(tmp_path, text):
    path = tmp_path / "scaling.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no scaling report"):
        read_scaling(path)
    with pytest.raises(UserError, match="no scaling report at"):
        read_scaling(tmp_path / "absent.json")


# -- results ----------------------------------------------------------------------------------------------------------


def test_results_whose_hash_fits_are_read_and_the_others_named(tmp_path):
    facts = inputs.read(inputs.write_results(tmp_path / "r", judged=inputs.verdict()))
    assert [result.check for result in facts.results] == ["network", "gradient_sync", "thermal", "reliability"]
    (text,) = facts.damaged
    assert text.startswith("0004-hardware.json") and "its hash does not fit" in text
    assert facts.verdict.verdict == "NO-GO" and facts.missing == ()


def test_half_a_result_is_named_and_a_folder_without_any_says_so(tmp_path):
    folder = inputs.write_results(tmp_path / "r")
    whole = (folder / "results" / "0000-network.json").read_text()
    (folder / "results" / "0000-network.json").write_text(whole[:100])
    named = [text.partition(":")[0] for text in read_results(folder).damaged]
    assert named == ["0000-network.json", "0004-hardware.json"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "campaign.json").write_text('{"identity": "c", "phase": "1"}')
    assert "no check has left a result" in read_results(tmp_path / "empty").missing


def test_what_is_no_results_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no results folder"):
        read_results(tmp_path / "absent")
    with pytest.raises(UserError, match="is no results folder"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"verdict": "GO!"}, "no gate gives"),
        ({"format": 0}, "has format 0"),
        ({"rows": [{"check": "a"}]}, "'verdict' is missing"),
        ({"rows": 3}, "damaged"),
        ({"reasons": None}, "damaged"),
    ],
)
def test_a_damaged_verdict_is_refused(change, match):
    with pytest.raises(UserError, match=match):
        parse_verdict(inputs.verdict(**change), "verdict.json")


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """Thresholds of phase 2a for the results that `write_results` writes."""
    text = "{at_least: 100, unit: '%', n_at_least: 1, source: s}"
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "phase2a.yaml").write_text(
        f"sound: {{gradient_sync: {{accuracy: {text}}}}}\npublished: {{soak: {{}}}}\n"
    )
    monkeypatch.setattr(authority, "load_rules", functools.partial(load_rules, folder=tmp_path / "rules"))


def test_the_verdict_is_the_gates_own_and_a_file_in_the_folder_changes_nothing(tmp_path, rules):
    folder = inputs.write_results(tmp_path / "r", judged=inputs.verdict("GO"))
    facts = read_results(folder)
    assert facts.verdict.verdict == "INVALID" and any("hash" in reason for reason in facts.verdict.reasons)
    assert {row.check for row in facts.verdict.rows} == {"gradient_sync"}
    published = read_results(folder, by_the_gate("published")).verdict
    assert published.set == "published" and {row.check for row in published.rows} == {"gradient_sync", "soak"}


def test_without_thresholds_there_is_no_verdict_and_it_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(authority, "load_rules", functools.partial(load_rules, folder=tmp_path / "nowhere"))
    facts = read_results(inputs.write_results(tmp_path / "r"))
    assert facts.verdict is None and any(text.startswith("no verdict: thresholds") for text in facts.missing)


@pytest.mark.parametrize(
    "value, low, high, text",
    [
        (263.149, 259.1, 267.3, "263 s"),
        (0.91317, 0.8949, 0.9313, "0.913 s"),
        (12.3456, 12.2, 12.5, "12.35 s"),
        (5.0, 5.0, 5.0, "5 s"),
        (1234567.0, None, None, "1,234,567 s"),
        (float("nan"), None, None, "not a number s"),
    ],
)
def test_figures_are_shown_to_the_digits_their_interval_leaves(value, low, high, text):
    assert Shown("x", value, "s", low, high).text == text
