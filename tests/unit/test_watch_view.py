"""What a watched run is said to be: figures as its report has them, and words that hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest
from gate_results import good
from metrics_records import LAYERS
from report_inputs import MARKUP, record, write_run

from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.events import EventLog
from ryzen_mpi.metrics.hdf5 import Hdf5Sink
from ryzen_mpi.metrics.record import SampleRecord
from ryzen_mpi.report.read_run import read_run
from ryzen_mpi.report.run_facts import WARMUP_STEPS
from ryzen_mpi.report.run_measures import communication_share, rank_times, throughput
from ryzen_mpi.validation import store
from ryzen_mpi.validation.authority import judge_folder
from ryzen_mpi.watch import answers, source, terminal, told
from ryzen_mpi.watch.finding import Runs
from ryzen_mpi.watch.gates import Gates
from ryzen_mpi.watch.ranks import RANK_STEPS
from ryzen_mpi.watch.view import Watched


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(source, "PAUSE_S", 0.0)
    monkeypatch.setattr(source, "OTHERS_S", 0.0)


def watched(path, **more) -> Watched:
    return Watched(path, "id", **more)


def write(path, rates, ranks: int = 2, sample: SampleRecord | None = None) -> None:
    """Steps of 64 samples with these rates."""
    log = EventLog(path / "events", 0, {"node": "n1"})
    log.event("start", "rank 0", step=0, ranks=ranks, cpus="0-1", threads=2, node_memory_bytes=8 << 30)
    sink = Hdf5Sink(path / "metrics.h5", ranks, LAYERS)
    for step, rate in enumerate(rates, 1):
        one = record(step, ranks, step_s=64 / rate, wall_time_s=1.7e9 + step)
        sink.write(one)
        log.write(one)
    if sample:
        sink.write(sample)
        log.write(sample)
    sink.close()
    log.close()


def test_figures_of_the_whole_run_are_those_of_its_report(tmp_path):
    path = write_run(tmp_path / "run", 240)
    facts, told_now = read_run(path), answers.one_run(watched(path))
    rate, share = told_now["totals"]
    assert rate["value"] == throughput(facts).value and share["value"] == 100 * communication_share(facts).value
    newest = facts.steps.at(slice(-RANK_STEPS - WARMUP_STEPS, None))
    times = rank_times(read_run(path).__class__(**facts.__dict__ | {"steps": newest}))
    assert [row["computation_s"] for row in told_now["ranks"]] == pytest.approx(times.computation_s.tolist())
    assert [row["slower"] != "" for row in told_now["ranks"]] == [False, False, False, True]
    assert told_now["state"]["text"] == "Complete" and "1 fault survived" in told_now["state"]["sentence"]


def test_what_is_expected_is_the_beginning_and_said_to_be(tmp_path):
    write(tmp_path / "run", [10.0] * 5 + [100.0] * 100 + [100.0] * 40)
    look = watched(tmp_path / "run").look()
    assert look.expected.rate == pytest.approx(100.0) and "first 100 measured steps on 2 ranks" in look.expected.why
    assert look.figures["rate"].badge.text == "as expected"


@pytest.mark.parametrize(
    ("now", "text", "tone"),
    [
        (70.0, "30 % slower", "bad"),
        (90.0, "10 % slower", "warn"),
        (130.0, "30 % faster", "good"),
        (98.0, "as expected", "good"),
    ],
)
def test_a_rate_that_left_what_is_expected_is_told(tmp_path, now, text, tone):
    write(tmp_path / "run", [100.0] * 105 + [now] * 20)
    badge = watched(tmp_path / "run").look().figures["rate"].badge
    assert (badge.text, badge.tone) == (text, tone)


def test_a_noisy_rate_is_not_called_slower(tmp_path):
    write(tmp_path / "run", [100.0] * 105 + [70.0, 130.0] * 10)
    assert watched(tmp_path / "run").look().figures["rate"].badge.text == "as expected"


def test_what_a_person_expects_comes_first(tmp_path):
    write(tmp_path / "run", [100.0] * 40)
    look = watched(tmp_path / "run", expect=200.0).look()
    assert look.expected.rate == 200.0 and "--expect" in look.expected.why
    assert look.figures["rate"].badge.text == "50 % slower"


def test_with_few_steps_nothing_is_expected(tmp_path):
    write(tmp_path / "run", [100.0] * 12)
    look = watched(tmp_path / "run").look()
    assert look.expected.rate is None and look.figures["rate"].badge.text == "not judged"


def test_heat_is_shown_or_why_there_is_none(tmp_path):
    told_heat = SampleRecord(30, 2e9, {}, {"rank_temperature_c": (61.0, 70.5), "rank_throttles": (0.0, 2.0)})
    write(tmp_path / "hot", [100.0] * 30, sample=told_heat)
    look = watched(tmp_path / "hot").look()
    assert look.figures["temperature"].value == 70.5 and look.figures["temperature"].badge.text == "throttling"
    none = SampleRecord(30, 2e9, {}, {"rank_temperature_c": (float("nan"),) * 2})
    write(tmp_path / "none", [100.0] * 30, sample=none)
    log = EventLog(tmp_path / "none" / "events", 0)
    log.event("gauges", "what is not known", reasons={"temperature_c": "no sensor of a processor"})
    log.close()
    one = watched(tmp_path / "none")
    assert one.look().figures["temperature"].note == "no sensor of a processor"
    assert answers.one_run(one)["no_temperature"] == "no sensor of a processor"
    write(tmp_path / "never", [100.0] * 30)
    assert watched(tmp_path / "never").look().figures["temperature"].note == "nothing was sampled yet"


def test_a_dead_process_is_told_at_once_and_a_silent_one_in_time(tmp_path):
    path = tmp_path / "run"
    write(path, [100.0] * 30)
    one, now = watched(path), time.time()
    assert one.look(now).headline.verdict == "Under way"
    assert one.look(now + 3600).headline.verdict == "Broke off"
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (path / ".lock").write_text(f"process {ended.stdout.strip()} on {os.uname().nodename}\n")
    look = one.look(now + 10)
    assert look.headline.verdict == "Broke off" and "is gone" in look.headline.text
    (path / ".lock").write_text(f"process {os.getpid()} on {os.uname().nodename}\n")
    assert one.look(now + 10).headline.verdict == "Under way"
    (path / ".lock").write_text("process 1 on another-node\n")
    assert one.look(now + 10).headline.verdict == "Under way"


def test_a_directory_that_vanishes_is_gone_with_its_last_figures(tmp_path):
    path = tmp_path / "run"
    write(path, [100.0] * 30)
    one = watched(path)
    one.look()
    shutil.rmtree(path)
    look = one.look()
    assert look.headline.verdict == "Gone" and look.step == 30 and look.over
    json.dumps(answers.one_run(one), allow_nan=False)


def test_losses_that_are_no_numbers_are_said_and_are_no_json(tmp_path):
    path = tmp_path / "run"
    write(path, [100.0] * 20)
    log = EventLog(path / "events", 0)
    log.write(record(21, 2, loss=float("nan"), step_s=float("inf"), wall_time_s=1.7e9 + 21))
    log.close()
    answer = answers.one_run(watched(path))
    json.dumps(answer, allow_nan=False)
    assert (
        answer["cards"]["loss"]["badge"]["text"] == "not a number" and answer["curves"]["columns"]["loss"][-1] is None
    )


# -- events ------------------------------------------------------------------------------------------------------------


def test_acts_of_the_monitor_stand_with_rule_rank_and_evidence(tmp_path):
    path = tmp_path / "run"
    write(path, [100.0] * 20)
    log = EventLog(path / "events", 0, {"node": "n1"})
    act = {"rule": "straggler", "kind": "warn", "rank": 3, "node": "n2", "step": 17, "evidence": "1.4 s against 0.3 s"}
    log.event("act", "rank 3 is slow", "warning", dataset="monitor", **act)
    log.event(
        "act",
        "skipped",
        "warning",
        dataset="monitor",
        rule="spike",
        kind="skip",
        rank=-1,
        node="",
        step=18,
        evidence="x",
        done="the step is skipped",
    )
    log.close()
    newest, before = answers.one_run(watched(path))["events"][:2]
    assert (
        newest["kind"] == "spike"
        and newest["tone"] == "bad"
        and newest["who"] == ""
        and newest["text"] == "the step is skipped"
    )
    assert before["kind"] == "straggler" and before["who"] == "rank 3 on n2" and before["step"] == 17
    assert before["evidence"] == "1.4 s against 0.3 s" and before["tone"] == "warn"


def test_faults_and_restarts_stand_in_the_order_of_time(tmp_path):
    path = write_run(tmp_path / "run", 120)
    events = answers.one_run(watched(path))["events"]
    assert [event["time"] for event in events] == sorted((event["time"] for event in events), reverse=True)
    kinds = [event["kind"] for event in events]
    assert {"start", "fault", "attempt", "checkpoint"} <= set(kinds)
    fault = events[kinds.index("fault")]
    assert fault["who"] == "rank 2 on node1" and fault["tone"] == "bad"
    assert kinds.count("start") == 2  # not one of every rank


def test_events_are_texts_without_control_characters_and_of_bounded_length(tmp_path):
    path = tmp_path / "run"
    write(path, [100.0] * 12)
    log = EventLog(path / "events", 0)
    log.event("odd\x1b[2J", MARKUP + "\x00\u2028" + "x" * 10_000, step="9", rank=[1], node={"a": 1})
    log.event("act", "", dataset="monitor", rule=[1], kind={}, evidence=["a"], step=True, rank="7")
    log.close()
    for event in answers.one_run(watched(path))["events"]:
        assert all(
            isinstance(event[key], str) and len(event[key]) <= told.MOST_CHARACTERS for key in ("text", "kind", "who")
        )
        assert not any(ord(character) < 32 for key in ("text", "kind", "who") for character in event[key])
    assert any(MARKUP in event["text"] for event in answers.one_run(watched(path))["events"])  # shown as it is: as text


# -- runs and gates ----------------------------------------------------------------------------------------------------


def test_runs_that_come_later_show_up_newest_first(tmp_path, monkeypatch):
    monkeypatch.setattr("ryzen_mpi.watch.finding.PAUSE_S", 0.0)
    runs = Runs((), tmp_path)
    assert runs.all() == []
    write(tmp_path / "20260101-a", [100.0] * 3)
    (tmp_path / "no-run").mkdir()
    first = runs.all()
    assert [run.path.name for run in first] == ["20260101-a"]
    write(tmp_path / "20260102-b", [100.0] * 3)
    assert [run.path.name for run in runs.all()] == ["20260102-b", "20260101-a"] and runs.all()[1] is first[0]
    shutil.rmtree(tmp_path / "20260102-b")
    assert len(runs.all()) == 2  # gone, and still told of


def test_what_is_no_run_is_refused_with_a_way_out(tmp_path):
    for paths, folder in (([tmp_path / "none"], None), ([tmp_path], None), ([], tmp_path / "none")):
        with pytest.raises(UserError) as told_why:
            Runs(paths, folder)
        assert told_why.value.hint


def test_gates_are_judged_as_the_gate_judges_them(tmp_path, monkeypatch):
    monkeypatch.setattr("ryzen_mpi.watch.gates.PAUSE_S", 0.0)
    campaign = store.create(tmp_path / "validation-1", "1")
    gates = Gates([tmp_path])
    assert [(row["phase"], row["verdict"]) for row in gates.look()] == [("1", "INSUFFICIENT")]
    from dataclasses import replace

    for number, result in enumerate(good(), 1):
        campaign.add(replace(result, number=number, campaign=campaign.identity))
    (row,) = gates.look()
    verdict = judge_folder("1", campaign.path, "sound")
    assert row["verdict"] == verdict.verdict and row["reasons"][0] == verdict.reasons[0]
    (campaign.path / "campaign.json").write_text("{")
    (row,) = Gates([tmp_path]).look()
    assert row["verdict"] == "INVALID" and "damaged" in row["reasons"][0]


# -- the terminal ------------------------------------------------------------------------------------------------------


def test_the_terminal_shows_the_same_figures_as_text(tmp_path):
    from rich.console import Console

    write_run(tmp_path / "20260301-slow", 120)
    write(tmp_path / "20260302-[red]x", [100.0] * 40)
    runs = Runs((), tmp_path)
    console = Console(width=140, record=True, file=open(os.devnull, "w"))
    console.print(terminal.picture(runs, Gates([tmp_path])))
    text = console.export_text()
    card = answers.one_run(runs.all()[0])["cards"]
    for key in ("loss", "held_out", "rate", "share", "memory"):
        assert card[key]["number"] in text, key
    assert "20260302-[red]x" in text and "as expected" in text and "Complete" in text and "rank" in text


def test_the_terminal_waits_for_a_first_run(tmp_path):
    assert "no run in" in str(terminal.picture(Runs((), tmp_path), Gates([tmp_path])))


def test_a_row_that_has_no_ranks_yet_is_no_reason_to_fail(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("training: [1, 2\n")
    (tmp_path / "run" / "events").mkdir()
    (tmp_path / "run" / "COMPLETE.json").write_text('{"steps": "many"')
    answer = answers.one_run(watched(tmp_path / "run"))
    assert answer["ranks"] == [] and answer["step"] == 0 and len(answer["missing"]) == 2
    assert np.size(answer["curves"]["columns"]["step"]) == 0


def test_health_checks_leave_room_for_what_happened(tmp_path):
    write(tmp_path / "run", [100.0] * 20)
    log = EventLog(tmp_path / "run" / "events", 0)
    for step in range(1, 200):
        log.event("health_check", f"health check after step {step}", dataset="monitor", step=step)
    log.close()
    events = answers.one_run(watched(tmp_path / "run"))["events"]
    assert [(event["kind"], event["step"]) for event in events] == [("health check", 199), ("start", 0)]


def test_what_all_ranks_say_is_told_once_and_what_befell_one_is_told_of_it(tmp_path):
    for rank in range(3):
        with closing(EventLog(tmp_path / "events", rank, {"node": "n1"})) as log:
            log.event("gauges", "no sensor of heat")
            if rank == 2:
                log.event("gauges", "no sensor of power")
            log.event("health_check", f"health check after step {7 + rank}", step=7)
            log.event("failure", "a peer is gone")
    names = [path.stem for path in sorted((tmp_path / "events").glob("*.jsonl"))]
    events = {
        name: [json.loads(line) for line in (tmp_path / "events" / f"{name}.jsonl").read_text().splitlines()]
        for name in names
    }
    rows = sorted((row["kind"], row["text"], row["who"]) for row in told.timeline(events))
    assert rows == [
        *(("failure", "a peer is gone", f"rank {rank} on n1") for rank in range(3)),
        ("gauges", "no sensor of heat", ""),
        ("gauges", "no sensor of power", ""),
        ("health check", "health check after step 7", ""),
    ]
