"""What the reports of phases, periods and the briefing conclude from what was recorded."""

import dataclasses
import json

import pytest
import report_inputs as inputs
from report_inputs import NOW, results, section

from ryzen_mpi.report.briefing import MOST_RISKS, briefing, find_risks, next_step
from ryzen_mpi.report.content import Shown
from ryzen_mpi.report.phase_report import _margin, phase_report
from ryzen_mpi.report.results_facts import parse_verdict
from ryzen_mpi.report.scaling_facts import read_scaling
from ryzen_mpi.report.scaling_report import scaling_headline, scaling_report
from ryzen_mpi.validation.result import Measured, not_measurable

DAY_S = 86400


# -- phase ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word, tone", [("GO", "good"), ("NO-GO", "bad"), ("INSUFFICIENT", "warn"), ("INVALID", "bad")])
def test_the_headline_of_a_phase_is_the_gates_word(tmp_path, word, tone):
    report = phase_report(inputs.read(inputs.write_results(tmp_path / "r", judged=inputs.verdict(word))), NOW)
    assert (report.headline.verdict, report.headline.tone) == (word, tone)


def test_a_phase_without_a_verdict_is_not_judged_and_never_good(tmp_path):
    report = phase_report(inputs.read(inputs.write_results(tmp_path / "r")), NOW)
    assert (report.headline.verdict, report.headline.tone) == ("Not judged", "unknown")


def test_every_row_of_the_gate_stands_in_the_table_with_its_word(tmp_path):
    judged = inputs.verdict()
    report = phase_report(inputs.read(inputs.write_results(tmp_path / "r", judged=judged)), NOW)
    (table,) = section(report, "Gate").tables
    assert [row[4].text for row in table.rows] == [row["verdict"] for row in judged["rows"]]
    tones = {row[4].text: row[4].tone for row in table.rows}
    assert tones["met"] == tones["excellent"] == "good" and tones["not met"] == "bad"
    assert tones["missing"] == tones["too short"] == "warn" and tones["not measurable"] == "unknown"


def test_problems_crashes_and_what_cannot_be_measured_are_told_with_the_way_to_run_them_again(tmp_path):
    report = phase_report(inputs.read(inputs.write_results(tmp_path / "r")), NOW)
    said = {advice.what: advice for advice in section(report, "Advice").advice}
    assert (
        "validate 2a --only gradient_sync"
        in said["gradient_sync: rank 2 differs from rank 0 at step 7 in element 17"].do
    )
    assert (
        said["reliability timeout"].level == "act" and said["thermal: temperature not measurable here"].level == "note"
    )
    assert "its hash does not fit" in section(report, "Results refused").text[0]


def test_the_three_figures_are_those_an_operator_asks_for(tmp_path):
    report = briefing([brief(tmp_path, "NO-GO")], NOW)
    assert [figure.name for figure in report.key] == ["throughput", "efficiency", "communication share"]
    assert all(isinstance(figure, Shown) and figure.target and figure.badge for figure in report.key)


def test_of_the_three_figures_those_that_no_check_measured_say_so(tmp_path):
    other = inputs.result("soak", 0, Measured("throughput_deviation", 0.01, "1"))
    report = phase_report(results(tmp_path, other), NOW)
    assert [(figure.value, figure.note) for figure in report.key] == [(None, "no check has measured it")] * 3


def test_what_was_not_measured_stands_beside_its_target_all_the_same(tmp_path):
    throughput = phase_report(brief(tmp_path, "NO-GO", rows=[]), NOW).key[0]
    assert throughput.value is None and throughput.target == ">= 500 samples/s"


def test_reasons_that_are_the_same_of_several_checks_are_told_together(tmp_path):
    reasons = ["NO-GO: a: 3, asked 4", "INSUFFICIENT: b: it was not run", "INSUFFICIENT: c: it was not run", "odd"]
    report = phase_report(brief(tmp_path, "NO-GO", reasons=reasons), NOW)
    together = ("NO-GO: a: 3, asked 4", "INSUFFICIENT: b and c: it was not run", "odd")
    assert section(report, "Why").text == together


def test_margins_turn_so_that_more_is_better_and_leave_out_what_is_no_ratio():
    rows = {row.figure: row for row in parse_verdict(inputs.verdict(), "").rows}
    assert _margin(rows["throughput"]).ratio == pytest.approx(463 / 500)
    latency = _margin(rows["latency"])
    assert latency.ratio == pytest.approx(100 / 64) and latency.low < latency.ratio < latency.high
    assert _margin(rows["loss"]) is None and _margin(rows["recovery"]) is None
    assert _margin(dataclasses.replace(rows["latency"], unit="ms")) is None


@pytest.mark.parametrize(
    "matrix", [None, [], [[1.0]], [[1, 2], [3]], [["x", 1], [1, 1]], [["nan", "nan"], ["nan", "nan"]], {"a": 1}, 7]
)
def test_pairs_that_are_no_matrix_are_passed_over(tmp_path, matrix):
    one = inputs.result("network", 0, details={"pairs": {"hosts": ["a"], "latency_us": matrix}})
    report = phase_report(results(tmp_path, one), NOW)
    assert not [one for one in report.sections if one.title == "Between the ranks"]


def test_figures_that_are_no_numbers_are_shown_as_such(tmp_path):
    one = inputs.result(
        "network", 0, Measured("latency", float("nan"), "us"), Measured("speed", float("inf"), "Gbit/s")
    )
    _, table = section(phase_report(results(tmp_path, one), NOW), "Checks").tables
    assert [row[2].text for row in table.rows] == ["not a number us", "infinite Gbit/s"]


# -- briefing ---------------------------------------------------------------------------------------------------------


def brief(tmp_path, word, **changes):
    folder = inputs.write_results(tmp_path / "r", judged=inputs.verdict(word, **changes))
    return inputs.read(folder)


@pytest.mark.parametrize(
    "word, step",
    [
        ("GO", "start phase 2b. ryzen-mpi authorise"),
        ("INSUFFICIENT", "ryzen-mpi validate 2a --only soak,reliability"),
        ("NO-GO", "Mend scaling, then run 1 check again. ryzen-mpi validate 2a --only scaling"),
        ("INVALID", "Use none of these figures"),
    ],
)
def test_the_next_step_follows_from_the_verdict(tmp_path, word, step):
    assert step in " ".join(next_step(brief(tmp_path, word)))


def test_a_briefing_without_a_verdict_asks_for_one(tmp_path):
    report = briefing([inputs.read(inputs.write_results(tmp_path / "r"))], NOW)
    assert report.headline.tone == "unknown" and section(report, "Next step").commands == ("ryzen-mpi gate 2a",)


def test_what_the_gate_says_is_a_risk_even_where_no_figure_is(tmp_path):
    bare = {"rows": [], "reasons": ["INSUFFICIENT: the phase has no thresholds: nothing can be judged"]}
    facts = results(tmp_path, judged=inputs.verdict("INSUFFICIENT", **bare))
    report = briefing([facts], NOW)
    assert "no thresholds" in report.headline.text and "no thresholds" in find_risks(facts)[0].what


def test_where_nothing_is_judged_the_measured_figures_stand_without_a_target(tmp_path):
    one = inputs.result("scaling", 0, Measured("speed", 1.0, "s"), Measured("throughput", 253.0, "samples/s"))
    figure, *_ = briefing([results(tmp_path, one)], NOW).key
    assert (figure.name, figure.value, figure.target) == ("throughput", 253.0, "")


def test_the_risks_are_the_gravest_and_fit_the_page(tmp_path):
    risks = find_risks(brief(tmp_path, "NO-GO", rows=inputs.verdict()["rows"] * 5))
    assert len(risks) == MOST_RISKS and risks[0].level == "act" and "more, in the phase report" in risks[-1].what
    assert all(len(risk.what) <= 160 for risk in risks)


def test_the_trend_is_of_the_same_figure_of_the_same_phase(tmp_path):
    folders = [
        inputs.write_results(tmp_path / f"r{day}", NOW - DAY_S * day, inputs.verdict(throughput=400.0 + day))
        for day in range(3)
    ]
    folders.append(
        inputs.write_results(tmp_path / "other", NOW - 9 * DAY_S, inputs.verdict(phase="1", throughput=99.0))
    )
    report = briefing([inputs.read(path) for path in folders], NOW)
    (picture,) = section(report, "Trend").pictures
    assert "402 samples/s" in picture.words and "400 samples/s" in picture.words and "99 samples/s" not in picture.words


def test_one_folder_is_no_trend_and_it_says_so(tmp_path):
    report = briefing([brief(tmp_path, "GO")], NOW)
    assert "no trend" in section(report, "Trend").text[0]


# -- scaling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "problems, oversubscribed, verdict, tone",
    [
        ((), False, "Measured", "good"),
        ((), True, "OVERSUBSCRIBED", "warn"),
        (("ranks ran one after the other",), True, "INVALID", "bad"),
    ],
)
def test_what_cannot_be_true_comes_first_in_a_scaling_report(tmp_path, problems, oversubscribed, verdict, tone):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(inputs.scaling(problems, oversubscribed)))
    facts = read_scaling(path)
    assert (scaling_headline(facts).verdict, scaling_headline(facts).tone) == (verdict, tone)
    if problems:
        assert section(scaling_report(facts, NOW), "What cannot be true").text == problems


def test_launches_that_are_not_whole_are_counted_and_the_report_still_made(tmp_path):
    content = inputs.scaling(("launch 2 has no samples",))
    content["launches"][2:4] = [{"number": 2}, "no launch"]
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content | {"strong": None, "weak": None}))
    report = scaling_report(read_scaling(path), NOW)
    assert report.headline.verdict == "INVALID" and report.key == ()
    assert "2 launches not shown: not whole" in section(report, "Launches").text


def test_the_published_result_is_reported_invalid_with_its_20_22(tmp_path):
    from ryzen_mpi.scaling import published

    path = tmp_path / "published.json"
    path.write_text(json.dumps(published.report()))
    report = scaling_report(read_scaling(path), NOW)
    assert report.headline.verdict == "INVALID" and "20.2" in report.headline.text
    assert any(figure.name == "speed-up" and 20 < figure.value < 20.5 for figure in report.key)


def test_launches_that_were_really_measured_give_a_report(tmp_path):
    import scaling_launches

    from ryzen_mpi.scaling.compose import report as compose
    from ryzen_mpi.scaling.record import parse

    launches = [parse(each) for each in scaling_launches.recorded()]
    path = tmp_path / "recorded.json"
    path.write_text(json.dumps(compose(launches, {"strong": (1, 2), "weak": (1, 2)}, made=NOW)))
    report = scaling_report(read_scaling(path), NOW)
    assert len(section(report, "Launches").tables[0].rows) == len(launches)
    assert section(report, "Losses").figures[0].badge.text == "within rounding"
    assert {picture.name for one in report.sections for picture in one.pictures} >= {"throughput", "efficiency-strong"}


def test_an_efficiency_above_one_is_marked(tmp_path):
    content = inputs.scaling()
    content["strong"]["points"][2]["efficiency"] = inputs.figure(1.3, "1")
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    (table,) = section(scaling_report(read_scaling(path), NOW), "Strong scaling").tables
    assert [row[-1].text for row in table.rows] == ["possible", "possible", "cannot be"]


def test_a_figure_that_is_not_measurable_is_not_measured(tmp_path):
    one = inputs.result("thermal", 0, not_measurable("temperature", "degC", "no sensor"))
    _, table = section(phase_report(results(tmp_path, one), NOW), "Checks").tables
    assert table.rows[0][2].text == "not measured" and table.rows[0][2].note == "no sensor"
