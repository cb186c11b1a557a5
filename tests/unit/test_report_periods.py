"""The check lists of a day, a week, a month: what counts as done, and what never does."""

import pytest
import report_inputs as inputs
from report_inputs import NOW, facts, results, section

from ryzen_mpi.report.check_list import Records, check_list
from ryzen_mpi.report.period_report import period_headline, period_report
from ryzen_mpi.validation.result import Measured, not_measurable

DAY_S = 86400
CHECKS = (("sync", "gradients are the same"), ("net_speed", "of the network"))


SYNC = "sync: gradients are the same"


def listed(period, runs=(), results=()):
    return {found.item: found for found in check_list(period, Records(runs, results, CHECKS, NOW))}


@pytest.mark.parametrize("period", ["daily", "weekly", "monthly"])
def test_of_nothing_nothing_counts_as_done(period):
    found = listed(period)
    assert {one.state for one in found.values()} == {"not run"}
    assert period_headline(list(found.values())).tone == "warn"


def test_a_healthy_run_has_its_items_done_and_the_checks_stay_not_run():
    found = listed("daily", (facts(complete={"steps": 120}),))
    states = {item: one.state for item, one in found.items()}
    assert states.pop(SYNC) == "not run" and states.pop("net_speed: of the network") == "not run"
    assert set(states.values()) == {"done"}, states


def test_one_run_in_trouble_is_trouble_whatever_the_others():
    sick = facts(slow={3: 1.6}, path=inputs.Path("runs/sick"), checkpoints=())
    found = listed("daily", (facts(), sick))
    assert found["communication at most 20 % of a step"].state == "trouble"
    assert "sick" in found["checkpoints are recent"].text and found["checkpoints are recent"].state == "trouble"


def test_a_check_whose_figures_could_not_be_measured_is_not_done(tmp_path):
    one = inputs.result("net_speed", 0, not_measurable("speed", "Gbit/s", "no second node"))
    found = listed("weekly", (), (results(tmp_path / "a", one),))["net_speed: of the network"]
    assert found.state == "not run" and "no second node" in found.text
    one = inputs.result("net_speed", 0, Measured("speed", 9.0, "Gbit/s"))
    found = listed("weekly", (), (results(tmp_path / "b", one),))["net_speed: of the network"]
    assert found.state == "done" and "speed 9 Gbit/s" in found.text


def test_a_period_without_a_list_of_checks_is_not_done():
    found = check_list("weekly", Records((), (), (), NOW))
    assert found[-1].state == "not run" and "no such list" in found[-1].text


def test_the_daily_list_is_that_of_operation(tmp_path):
    from ryzen_mpi.validation.lists import read_lists

    (table,) = section(period_report("daily", tmp_path, NOW), "Check list").tables
    items = [row[0].partition(":")[0] for row in table.rows]
    assert set(read_lists()["daily"].checks) <= set(items)


@pytest.mark.parametrize(
    "change, state",
    [
        ({"status": "timeout", "message": "too slow"}, "trouble"),
        ({"status": "failed"}, "trouble"),
        ({"status": "interrupted"}, "trouble"),
        ({"problems": ["rank 1 differs"]}, "trouble"),
        ({"impossible": ["faster than light"]}, "trouble"),
        ({"status": "not measurable"}, "not run"),
    ],
)
def test_a_check_that_did_not_come_out_well_is_never_done(tmp_path, change, state):
    one = inputs.result("sync", 0, **change)
    assert listed("daily", (), (results(tmp_path, one),))[SYNC].state == state


def test_the_newest_result_of_a_check_counts(tmp_path):
    bad = inputs.result("sync", 0, problems=["rank 1 differs"])
    good = inputs.result("sync", 1, Measured("accuracy", 100.0, "%"))
    assert listed("daily", (), (results(tmp_path, bad, good),))[SYNC].state == "done"


def test_a_period_takes_what_shows_a_sign_of_life_within_it(tmp_path):
    now = NOW + 100 * DAY_S
    inputs.write_results(tmp_path / "new", now - 3600)
    inputs.write_results(tmp_path / "week", now - 3 * DAY_S)
    inputs.write_results(tmp_path / "old", now - 40 * DAY_S)
    for period, names in (("daily", {"new"}), ("weekly", {"new", "week"}), ("monthly", {"new", "week"})):
        report = period_report(period, tmp_path, now, inputs.kept_verdict)
        (table,) = section(report, "Results").tables
        assert {row[0] for row in table.rows} == names


def test_a_broken_folder_does_not_hide_the_others(tmp_path):
    inputs.write_results(tmp_path / "good", NOW - 60)
    bad = inputs.write_results(tmp_path / "bad", NOW - 60)
    (bad / "campaign.json").write_text("{")
    report = period_report("daily", tmp_path, NOW)
    assert len(section(report, "Results").tables[0].rows) == 1
    assert any("campaign.json is damaged" in text for text in section(report, "Missing").text)
