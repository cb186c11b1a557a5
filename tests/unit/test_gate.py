"""The gate: what gives GO, what does not, and that nothing doubtful ever does."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from gate_results import CAMPAIGN, EFFICIENCY, RULES, THROUGHPUT, figure, good, result
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ryzen_mpi.errors import UserError
from ryzen_mpi.validation.gate import judge
from ryzen_mpi.validation.gate_metrics import write_gate_metrics
from ryzen_mpi.validation.result import Findings
from ryzen_mpi.validation.thresholds import Rules


def verdict(results, rules=RULES, **more):
    return judge(results, rules, CAMPAIGN, **more)


def spoiled(number: int, **changes):
    """The good campaign with the result of that number changed."""
    return [replace(r, **changes) if r.number == number else r for r in good()]


def with_figure(new, number: int = 1):
    """The good campaign with a figure replaced by one of the same name."""
    results = good()
    kept = [f for f in results[number - 1].findings.figures if f.name != new.name]
    results[number - 1] = replace(results[number - 1], findings=Findings((*kept, new)))
    return results


def test_a_campaign_that_meets_everything_is_go():
    found = verdict(good())
    assert (found.verdict, found.reasons) == ("GO", ())
    assert {row.figure: row.verdict for row in found.rows}["temperature"] == "not measurable"


def test_the_verdict_is_the_same_at_every_call_and_in_any_order():
    shuffled = good()
    random.Random(1).shuffle(shuffled)
    assert verdict(good()) == verdict(good()) == verdict(shuffled)


@pytest.mark.parametrize("missing", [1, 2, 3, 4])
def test_a_check_that_was_not_run_is_insufficient_and_named(missing):
    found = verdict([r for r in good() if r.number != missing])
    assert found.verdict == "INSUFFICIENT"
    assert "was not run" in found.reasons[0] and good()[missing - 1].check in found.reasons[0]


def test_nothing_at_all_is_insufficient():
    assert verdict([]).verdict == "INSUFFICIENT"
    assert verdict([], Rules("1", "sound", 4, 1, {})).verdict == "INSUFFICIENT"


@pytest.mark.parametrize(
    ("samples", "expected", "row"),
    [
        ((310.0, 312.0, 315.0), "GO", "excellent"),
        ((255.0, 260.0, 262.0), "GO", "met"),
        ((245.0, 255.0, 260.0), "INSUFFICIENT", "too short"),
        ((240.0, 245.0, 249.0), "NO-GO", "not met"),
        ((180.0, 190.0, 195.0), "NO-GO", "no-go"),
    ],
)
def test_the_worse_end_of_the_interval_has_to_meet_the_threshold(samples, expected, row):
    found = verdict(with_figure(figure("throughput", samples[1], "samples/s", samples)))
    assert found.verdict == expected
    assert next(r for r in found.rows if r.figure == "throughput").verdict == row


def test_a_soak_that_was_too_short_is_insufficient_not_no_go():
    found = verdict(with_figure(figure("soak_s", 60.0, "s"), 4))
    assert found.verdict == "INSUFFICIENT" and "60, where >= 86400 s is asked" in found.reasons[0]


def test_what_a_check_says_must_not_be_is_no_go_though_the_figures_are_fine():
    results = good()
    results[1] = replace(results[1], findings=replace(results[1].findings, problems=("rank 2 differs",)))
    assert verdict(results).reasons == ("NO-GO: exact: rank 2 differs",)


def test_an_efficiency_above_one_is_invalid_not_excellent():
    assert verdict(with_figure(figure("efficiency", 1.06, "1", (1.05, 1.06, 1.08)))).verdict == "INVALID"
    # an interval that holds 1 is no proof of more
    assert verdict(with_figure(figure("efficiency", 1.01, "1", (0.97, 1.01, 1.02)))).verdict == "GO"


INVALID_FIGURES = {
    "nan": replace(THROUGHPUT, value=math.nan),
    "nan sample": replace(THROUGHPUT, samples=(255.0, math.nan, 262.0, 260.0)),
    "infinite": replace(THROUGHPUT, high=math.inf),
    "text": replace(THROUGHPUT, value="260"),
    "true": replace(THROUGHPUT, value=True),
    "constant": figure("throughput", 260.0, "samples/s", (260.0,) * 5),
    "negative": replace(THROUGHPUT, samples=(-255.0, 260.0, 262.0, 261.0)),
    "outside of its interval": replace(THROUGHPUT, value=270.0, high=265.0),
    "outside of its samples": replace(THROUGHPUT, value=900.0, high=950.0),
    "more observations than shown": replace(THROUGHPUT, n=40),
    "no observations": replace(THROUGHPUT, n=0),
    "another unit": replace(THROUGHPUT, unit="tokens/s"),
}


@pytest.mark.parametrize("new", INVALID_FIGURES.values(), ids=INVALID_FIGURES)
def test_a_figure_that_cannot_be_true_is_invalid(new):
    assert verdict(with_figure(new)).verdict == "INVALID"


def test_a_single_timing_is_insufficient():
    assert verdict(with_figure(figure("throughput", 260.0, "samples/s", (260.0,)))).verdict == "INSUFFICIENT"
    assert verdict(with_figure(figure("throughput", 260.0, "samples/s"))).verdict == "INSUFFICIENT"


INVALID_CAMPAIGNS = {
    "ended before it began": spoiled(2, ended=1900.0),
    "clock backwards": spoiled(3, began=100.0, ended=200.0),
    "no time": spoiled(3, ended=math.nan),
    "foreign folder": spoiled(2, campaign="another"),
    "foreign phase": spoiled(2, phase="2a"),
    "foreign machine": spoiled(2, conditions={**good()[1].conditions, "machine": {"cpu": "y", "cores": 16}}),
    "foreign host": spoiled(2, conditions={**good()[1].conditions, "hosts": ["laptop"]}),
    "unknown status": spoiled(2, status="passed"),
    "number twice": [*good(), replace(good()[0], began=9000.0, ended=9100.0)],
    "copied": [*good(), replace(good()[0], number=5)],
    "copied timings": [*good(), result(5, "speed", THROUGHPUT, EFFICIENCY)],
    "figure twice": spoiled(1, findings=Findings((THROUGHPUT, THROUGHPUT, EFFICIENCY))),
    "impossible": spoiled(1, findings=Findings((THROUGHPUT, EFFICIENCY), impossible=("ranks ran in turn",))),
}


@pytest.mark.parametrize("results", INVALID_CAMPAIGNS.values(), ids=INVALID_CAMPAIGNS)
def test_a_campaign_that_cannot_be_true_is_invalid(results):
    assert verdict(results).verdict == "INVALID"


def test_a_damaged_result_is_invalid_and_named():
    found = verdict(good(), damaged=["0002-exact.json: its hash does not fit"])
    assert found.verdict == "INVALID" and "0002-exact.json" in found.reasons[0]


def test_of_several_runs_the_newest_counts_not_the_best():
    worse = figure("throughput", 190.0, "samples/s", (188.0, 190.0, 191.0))
    assert verdict([*good(), result(5, "speed", worse, EFFICIENCY)]).verdict == "NO-GO"
    crashed = result(5, "speed", status="failed", message="exit code 1")
    assert verdict([*good(), crashed]).verdict == "INSUFFICIENT"


def test_results_of_fewer_ranks_do_not_open_the_gate_of_a_phase():
    few = [replace(r, conditions=r.conditions | {"ranks": 2}) for r in good()]
    found = verdict(few)
    assert found.verdict == "INSUFFICIENT" and "2 ranks on 1 node" in found.reasons[0]


@given(st.data())
def test_a_spoiled_figure_never_opens_the_gate(data):
    """Whatever single field of the throughput is replaced by rubbish, there is no GO that rests on it."""
    name = data.draw(st.sampled_from(["value", "low", "high", "n", "unit", "samples"]))
    rubbish = {
        "n": st.integers(-5, 2),
        "unit": st.text(max_size=5).filter(lambda unit: unit != "samples/s"),
        "samples": st.one_of(
            st.tuples(st.just(math.nan)),
            st.lists(st.floats(-1e9, -1), min_size=1, max_size=5).map(tuple),
            st.tuples(st.floats(1, 1e4)),
        ),
    }.get(name, st.one_of(st.just(math.nan), st.just(-math.inf), st.floats(-1e9, 199), st.text(max_size=3)))
    if name == "high":
        rubbish = st.one_of(st.just(math.nan), st.floats(-1e9, 199))
    new = replace(THROUGHPUT, **{name: data.draw(rubbish)})
    assert verdict(with_figure(new)).verdict != "GO"


# -- for Prometheus ---------------------------------------------------------------------------------------------------


def written_for_prometheus(tmp_path, results) -> dict[str, dict[tuple, float]]:
    """The value of every sample, by its metric's name and by its labels beside phase and set."""
    file = tmp_path / "gate-1.prom"
    write_gate_metrics(verdict(results), file)
    found: dict[str, dict[tuple, float]] = {}
    for family in text_string_to_metric_families(file.read_text()):
        for sample in family.samples:
            assert (sample.labels.pop("phase"), sample.labels.pop("set")) == ("1", "sound")
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    assert [path.name for path in tmp_path.iterdir()] == ["gate-1.prom"]
    return found


def test_prometheus_is_told_one_verdict_of_four_and_every_threshold(tmp_path):
    found = written_for_prometheus(tmp_path, good())
    assert found["ryzen_mpi_gate_verdict"] == {("GO",): 1, ("NO-GO",): 0, ("INSUFFICIENT",): 0, ("INVALID",): 0}
    assert set(found["ryzen_mpi_gate_threshold_met"].values()) == {1.0}
    assert found["ryzen_mpi_gate_figure"][("speed", "throughput", "samples/s")] == 260
    assert ("heat", "temperature", "C") not in found["ryzen_mpi_gate_figure"]  # there is no sensor


def test_prometheus_is_told_which_threshold_stands_in_the_way(tmp_path):
    slow = figure("throughput", 150.0, "samples/s", (150.0, 151.0, 149.0))
    found = written_for_prometheus(tmp_path, with_figure(slow))
    assert found["ryzen_mpi_gate_verdict"][("NO-GO",)] == 1 and found["ryzen_mpi_gate_verdict"][("GO",)] == 0
    against = {labels[:2] for labels, met in found["ryzen_mpi_gate_threshold_met"].items() if not met}
    assert against == {("speed", "throughput")}


def test_a_file_that_the_collector_would_not_read_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not end in .prom"):
        write_gate_metrics(verdict(good()), tmp_path / "gate-1.txt")
    with pytest.raises(UserError, match="can't be written: No such file or directory"):
        write_gate_metrics(verdict(good()), tmp_path / "none" / "gate-1.prom")
