"""Every rule of advice: what it sees, the cause it gives, and that it keeps quiet where nothing is wrong."""

import dataclasses
import math

import numpy as np
import pytest
import report_inputs as inputs
from report_inputs import BEGAN, facts, places, record, steps

from ryzen_mpi.report import advice, scaling_advice
from ryzen_mpi.report.run_facts import WARMUP_STEPS, Restart
from ryzen_mpi.report.run_measures import rank_times, slope, slow_ranks, spikes, thinned, throughput
from ryzen_mpi.report.scaling_facts import read_scaling


def said(rule, of) -> str:
    """All that a rule says, in one text."""
    return " | ".join(f"{one.level}: {one.sentence} -> {one.do}" for one in rule(of))


def changed(of, **columns):
    """The facts with columns of their steps replaced."""
    return dataclasses.replace(of, steps=dataclasses.replace(of.steps, **columns))


def test_nothing_is_said_of_a_healthy_run():
    assert advice.advise(facts()) == ()


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_said_of_healthy_runs_with_other_noise(seed):
    rows = [record(1000 * seed + step) for step in range(1, 121)]
    again = [dataclasses.replace(row, step=number, loss=row.loss + 0) for number, row in enumerate(rows, 1)]
    healthy = facts(steps=steps(again))
    assert advice.advise(healthy) == ()


def test_a_slow_rank_on_the_cores_of_another_is_named_with_that_cause():
    shared = facts(slow={3: 1.12}, places=places([{0, 1}, {2, 3}, {4, 5}, {4, 5}]))
    text = said(advice.slow_rank, shared)
    assert "rank 3 is 12" in text and "slower than the others: bound to the cores of rank 2 (4-5 of node1)" in text


def test_a_slow_rank_with_fewer_cores_is_told_so():
    fewer = facts(slow={1: 1.5}, places=places([{0, 1}, {2}, {4, 5}, {6, 7}]))
    assert "it has 1 core where others have 2" in said(advice.slow_rank, fewer)


def test_a_slow_rank_with_fewer_threads_is_told_so():
    four = list(places([{0, 1}, {2, 3}, {4, 5}, {6, 7}]))
    four[1] = dataclasses.replace(four[1], threads=1)
    assert "it computes with 1 thread where others have 2" in said(
        advice.slow_rank, facts(slow={1: 1.5}, places=tuple(four))
    )


def test_a_slow_rank_on_its_own_cores_points_outside_the_job():
    assert "the cause lies outside the job" in said(advice.slow_rank, facts(slow={2: 1.2}))


def test_a_slow_rank_whose_place_was_not_recorded_has_no_invented_cause():
    assert "the cause is not known" in said(advice.slow_rank, facts(slow={2: 1.2}, places=()))


def test_ranks_of_different_hosts_on_the_same_numbers_share_no_cores():
    apart = places([{0, 1}], "node1") + tuple(dataclasses.replace(place, rank=1) for place in places([{0, 1}], "node2"))
    two = facts(ranks=2, slow={1: 1.3}, places=apart)
    assert "cores of rank" not in said(advice.slow_rank, two) and not said(advice.shared_cores, two)


def test_shared_cores_are_told_even_where_no_rank_is_slow():
    assert "ranks 0 and 1 share cores (0-1 of node1)" in said(
        advice.shared_cores, facts(places=places([{0, 1}, {0, 1}, {4}, {5}]))
    )


@pytest.mark.parametrize("share, level", [(0.05, ""), (0.15, "watch"), (0.4, "act")])
def test_communication_is_judged_by_the_limits_of_phase_1(share, level):
    healthy = facts()
    text = said(advice.communication, changed(healthy, communication_s=share * healthy.steps.step_s))
    assert text.startswith(level) and bool(text) == bool(level)


def test_communication_that_is_waiting_for_a_slow_rank_says_so():
    assert "the others wait for rank 3" in said(advice.communication, facts(slow={3: 1.4}))


def test_work_that_a_failure_would_cost_is_told_and_not_where_the_run_is_complete():
    late = facts(checkpoints=((50, BEGAN),), count=120)
    assert "the newest checkpoint is of step 50: 70 steps" in said(advice.checkpoints, late)
    assert "there is no checkpoint" in said(advice.checkpoints, facts(checkpoints=()))
    assert not said(advice.checkpoints, facts(checkpoints=(), complete={"seconds": 100.0}))


def test_saving_that_holds_the_steps_up_is_told():
    held = facts(complete={"checkpoint_held_s": 10.0, "seconds": 100.0})
    assert "saving held the steps up for 10 % of the time" in said(advice.checkpoints, held)


def test_memory_near_its_limit_is_told_with_the_share():
    tight = facts(places=places([{0}, {1}, {2}, {3}], memory=int(4.2e9)))  # four ranks of 1 GB
    assert "the ranks on node1 hold 95.2 % of its memory" in said(advice.memory, tight)


def test_memory_that_grows_is_told():
    healthy = facts()
    grown = healthy.steps.rank_rss_bytes * np.linspace(1, 1.3, len(healthy.steps))[:, None]
    assert "memory grew by" in said(advice.memory, changed(healthy, rank_rss_bytes=grown))


def test_a_loss_that_is_no_number_is_told_with_its_steps():
    loss = facts().steps.loss.copy()
    loss[[70, 71]] = math.nan, math.inf
    assert "the loss was no number at 2 steps (71 and 72)" in said(advice.losses, changed(facts(), loss=loss))


def test_skipped_steps_are_told():
    skipped = np.zeros(120, bool)
    skipped[9] = True
    assert "1 step skipped (10)" in said(advice.losses, changed(facts(), skipped=skipped))


def test_a_spike_is_found_at_its_step_and_noise_is_none():
    healthy = facts()
    assert spikes(healthy.steps) == []
    loss = healthy.steps.loss.copy()
    loss[80] += 2
    assert spikes(changed(healthy, loss=loss).steps) == [81]
    assert "the loss spiked at 1 step (81)" in said(advice.losses, changed(healthy, loss=loss))


def test_a_fault_survived_is_told_with_its_cause_and_planned_restarts_are_not():
    fault = Restart(BEGAN + 50, 60, "crashed: rank 2 was killed", planned=False)
    text = said(advice.restarts, facts(restarts=(fault,), account={"ettr": 0.9}))
    assert "1 restart after a fault: the last: crashed: rank 2 was killed; 90 % of the time was productive" in text
    assert not said(advice.restarts, facts(restarts=(dataclasses.replace(fault, planned=True),)))


def test_a_recorded_failure_is_told():
    assert "1 failure recorded: rank 1: disk full" in said(advice.restarts, facts(troubles=("rank 1: disk full",)))


def test_a_slow_decline_is_found_and_an_even_run_has_none():
    healthy = facts(count=400)
    assert not said(advice.declining, healthy)
    slower = healthy.steps.step_s * np.linspace(1, 1.06, 400)
    text = said(advice.declining, changed(healthy, step_s=slower))
    assert "throughput fell by" in text and "Theil-Sen" in text


def test_a_single_slow_step_is_no_decline():
    healthy = facts(count=400)
    odd = healthy.steps.step_s.copy()
    odd[-5:] *= 10
    assert not said(advice.declining, changed(healthy, step_s=odd))


def test_few_steps_and_wide_intervals_are_told():
    assert "throughput rests on" in said(advice.certainty, facts(count=20))
    wild = facts()
    odd = wild.steps.step_s * np.where(np.arange(120) % 2, 1.0, 1.6)
    assert "throughput is known to ±" in said(advice.certainty, changed(wild, step_s=odd))


def test_what_asks_for_an_act_comes_first():
    levels = [one.level for one in advice.advise(facts(count=20, slow={3: 1.2}, restarts=()))]
    assert levels == sorted(levels, key=("act", "watch", "note").index) and len(set(levels)) > 1


# -- what the rules rest on -------------------------------------------------------------------------------------------


def test_warm_up_is_the_same_as_in_the_summary_of_a_run():
    from ryzen_mpi.training import recorder

    assert WARMUP_STEPS == recorder.WARMUP_STEPS


def test_no_figure_is_taken_from_the_steps_after_a_start():
    again = facts(restarts=(Restart(BEGAN, 60, "", True),))
    left = set(range(1, 121)) - set(range(1, 6)) - set(range(61, 66))
    assert set(again.measured().step.tolist()) == left


def test_other_numbers_of_ranks_are_not_mixed():
    rows = [record(step, 4) for step in range(1, 41)] + [record(step, 2, {1: 1.3}) for step in range(41, 81)]
    slow = slow_ranks(facts(steps=steps(rows)))
    assert [one.rank for one in slow] == [0, 1] and slow[1].more.low > 0.25


def test_the_parts_of_a_rank_make_up_the_wall_clock_of_a_step():
    times = rank_times(facts())
    assert np.allclose(times.computation_s + times.communication_s + times.other_s, 0.25, rtol=1e-3)


def test_throughput_counts_samples_not_steps():
    rate = throughput(facts())
    assert rate.low <= 64 / 0.195 <= rate.high or abs(rate.value - 64 / 0.195) < 3


def test_the_slope_is_that_of_the_line_under_outliers():
    x = np.arange(200.0)
    y = 100 - 0.05 * x
    y[::7] = 500
    found = slope(x, y)
    assert -0.12 < found.change < -0.08 and slope(x[:20], y[:20]) is None


def test_thinning_keeps_the_level_and_leaves_nan_out():
    y = np.full(1000, 3.0)
    y[::3] = np.nan
    _, thin = thinned(np.arange(1000), y, 50)
    assert len(thin) == 50 and np.all(thin == 3.0)


# -- scaling ----------------------------------------------------------------------------------------------------------


def scaled(tmp_path, **changes):
    import json

    content = inputs.scaling()
    change = changes.pop("change", None)
    if change:
        change(content)
    path = tmp_path / "scaling.json"
    path.write_text(json.dumps(content | changes))
    return read_scaling(path)


def spoken(of) -> str:
    return " | ".join(one.sentence for one in scaling_advice.advise(of))


def test_the_factor_that_costs_most_is_named(tmp_path):
    assert "strong scaling on 4 ranks loses most in communication efficiency: 90 %" in spoken(scaled(tmp_path))


def test_more_than_ideal_asks_for_its_explanation(tmp_path):
    def above(content):
        content["strong"]["points"][2]["efficiency"] = inputs.figure(1.4, "1")

    assert "above 100 % with its whole interval: nothing in the report explains it" in spoken(
        scaled(tmp_path, change=above)
    )


def test_few_launches_oversubscription_and_disturbance_are_told(tmp_path):
    def few(content):
        content["strong"]["points"][2]["launches"] = 2
        content["disturbed"] = ["launch 3: a rank waited 30 % of the time for a core that others had"]

    assert "rests on 2 launches of 4 ranks" in spoken(scaled(tmp_path, change=few))
    assert "1 launch disturbed: launch 3" in spoken(scaled(tmp_path, change=few))
    assert "say nothing of more nodes" in spoken(scaled(tmp_path, oversubscribed=True))
