"""A soak's record: healthy ones raise no alarm, and every planted fault shows in its figure."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ryzen_mpi.supervisor.ledger import Record
from ryzen_mpi.validation.checks.soak import findings
from ryzen_mpi.validation.soaked import Soak, checkpoints_of, time_of, windows_of

RANKS, STEPS, BATCH, STEP_S = 4, 1200, 64, 0.5
HEALTHY = 100
PHASE_S = 24 * 3600.0


def healthy(seed: int = 0, steps: int = STEPS) -> Soak:
    """Steps of half a second with 2 % of noise, a falling loss, a save every 25 steps that takes a tenth of a step."""
    random = np.random.default_rng(seed)
    number = np.arange(1, steps + 1)
    work = STEP_S * 0.8 * (1 + 0.02 * np.abs(random.normal(size=(steps, RANKS))))
    step_s = work.max(axis=1) + 0.1 * STEP_S
    wall = 1e9 + np.cumsum(step_s + 0.05 * (number % 25 == 0))
    rss = np.full((steps, RANKS), 1e9) * (1 + 1e-4 * random.random((steps, RANKS)))
    return Soak(
        steps=number,
        wall_s=wall,
        step_s=step_s,
        samples=number * BATCH,
        loss=1.5 + 4 * np.exp(-number / 200) + 0.03 * random.normal(size=steps),
        norm=0.5 * np.exp(0.1 * random.normal(size=steps)),
        skipped=np.zeros(steps, dtype=np.uint8),
        rank_step_s=np.repeat(step_s[:, None], RANKS, axis=1),
        rank_wait_s=step_s[:, None] - work,
        rank_rss=rss,
        rank_cpu=np.full((steps, RANKS), 0.97),
        attempts=[attempt(1, 0, steps, "stopped")],
        interval=25,
        verified=dict.fromkeys(range(25, steps + 1, 25), ""),
        memory=[{"node0": 0.4, "node1": 0.5}] * 10,
        cores=RANKS,
    )


def attempt(epoch: int, resumed: int, step: int, end: str) -> Record:
    return Record(epoch, RANKS, {}, 1e9, resumed=resumed, step=step, end=end, cause="killed" * (end == "fault"))


def measured(soak: Soak) -> dict:
    return {figure.name: figure for figure in findings(soak, PHASE_S).figures}


def changed(soak: Soak, **changes) -> Soak:
    return dataclasses.replace(soak, **changes)


def test_a_hundred_healthy_soaks_raise_no_alarm():
    outside = 0
    for seed in range(HEALTHY):
        soak = healthy(seed)
        found = findings(soak, PHASE_S)
        assert (list(found.problems), list(found.impossible), list(found.evidence)) == ([], [], []), seed
        figures = {figure.name: figure for figure in found.figures}
        for name in ("not_finite", "loss_spikes", "gradient_norm_spikes", "restarts"):
            assert figures[name].value == 0, (seed, name)
        assert figures["checkpoints"].value == figures["uptime"].value == 1
        assert figures["throughput_deviation"].value < 0.02 and figures["imbalance"].value < 0.02
        assert abs(figures["throughput_drift"].value) < 0.01 and abs(figures["memory_growth"].value) < 1e-3
        assert abs(figures["gradient_norm_growth"].value) < 0.1
        outside += not figures["throughput_drift"].low <= 0 <= figures["throughput_drift"].high
    assert outside <= 12  # 95 % intervals: 5 expected of 100


def test_the_figures_are_those_of_what_was_put_in():
    soak = healthy()
    figures = measured(soak)
    length = soak.wall_s[-1] - soak.wall_s[0] + soak.step_s[0]
    assert figures["soak_s"].value == pytest.approx(length)
    assert figures["failure_rate_bound"].value == pytest.approx(2.9957 / (length / 3600), rel=1e-3)
    rate = BATCH / (np.median(soak.step_s) + 0.05 / 25)
    assert figures["throughput"].value == pytest.approx(rate, rel=0.01) and figures["throughput"].n >= 38
    assert figures["throughput"].low <= rate <= figures["throughput"].high or figures["throughput"].n < 50
    assert figures["cpu_use"].value == pytest.approx(0.97) and figures["memory_share"].value == 0.5


def test_a_short_soak_says_what_it_proves_and_does_not_claim_the_phase():
    figure = measured(healthy(steps=100))["soak_s"]
    assert figure.value < 60 and "fewer than" in figure.why and "24 h without one would prove 0.125" in figure.why


def test_a_soak_of_no_steps_measures_nothing_and_claims_nothing():
    figures = measured(healthy(steps=0))
    assert figures["soak_s"].value == 0 and figures["failure_rate_bound"].value == float("inf")
    assert figures["throughput"].value is figures["checkpoints"].value is figures["cpu_use"].value is None


def test_a_slow_drift_is_found():
    soak = healthy()
    slower = soak.wall_s[0] + np.cumsum(np.diff(soak.wall_s, prepend=soak.wall_s[0]) * np.linspace(1, 1.05, STEPS))
    drift = measured(changed(soak, wall_s=slower))["throughput_drift"]
    assert drift.high < -0.03 and drift.low < -0.045 < drift.high


def test_a_slow_rank_is_named():
    soak = healthy()
    wait = soak.rank_wait_s.copy()
    wait[:, 2] -= 0.1 * STEP_S
    found = measured(changed(soak, rank_wait_s=wait))["imbalance"]
    assert found.value > 0.08 and "rank 2" in found.why


def test_a_spike_of_the_loss_and_one_of_the_gradient_are_found_at_their_steps():
    soak = healthy()
    soak.loss[700] += 1.0
    soak.norm[801] *= 8
    figures = measured(soak)
    assert figures["loss_spikes"].value == 1 and "[701]" in figures["loss_spikes"].why
    assert figures["gradient_norm_spikes"].value == 1 and "[802]" in figures["gradient_norm_spikes"].why


@pytest.mark.parametrize("where", ["loss", "norm", "skipped"])
def test_a_step_that_is_not_finite_is_found(where):
    soak = healthy()
    getattr(soak, where)[99] = 1 if where == "skipped" else np.nan
    found = findings(soak, PHASE_S)
    assert {figure.name: figure.value for figure in found.figures}["not_finite"] == 1
    assert any("step 100" in text for text in found.problems)


def test_a_gradient_norm_that_grows_is_found():
    soak = healthy()
    growing = soak.norm * np.linspace(1, 3, STEPS)
    assert measured(changed(soak, norm=growing))["gradient_norm_growth"].value > 0.5


def test_a_leak_is_found_and_buffers_made_at_the_start_are_none():
    soak = healthy()
    leak = soak.rank_rss + np.linspace(0, 2e8, STEPS)[:, None]
    found = measured(changed(soak, rank_rss=leak))["memory_growth"]
    assert found.low > 0.05
    start = soak.rank_rss + np.minimum(np.arange(STEPS) / 100, 1)[:, None] * 2e8
    assert abs(measured(changed(soak, rank_rss=start))["memory_growth"].value) < 1e-3


def test_a_missing_and_a_damaged_checkpoint_are_found():
    soak = healthy()
    verified = dict(soak.verified) | {100: "model.safetensors: holds other bytes"}
    del verified[50]
    due, wrong = checkpoints_of(changed(soak, verified=verified))
    assert due == STEPS // 25 and "step 50 was due and not seen" in wrong[0] and "step 100 is damaged" in wrong[1]
    assert measured(changed(soak, verified=verified))["checkpoints"].value == pytest.approx(1 - 2 / due)


def recovered() -> Soak:
    """A fault at step 600, 40 s until the run trains again from step 575."""
    soak = healthy()
    wall = soak.wall_s.copy()
    wall[575:] += 40
    return changed(soak, wall_s=wall, attempts=[attempt(1, 0, 600, "fault"), attempt(2, 575, STEPS, "stopped")])


def test_a_restart_costs_uptime_and_neither_rate_nor_drift():
    figures = measured(recovered())
    assert figures["restarts"].value == 1
    length = figures["soak_s"].value
    assert figures["uptime"].value == pytest.approx(length / (length + 40), rel=1e-3)
    assert "1 failures" in figures["soak_s"].why
    assert abs(figures["throughput_drift"].value) < 0.01 and figures["throughput_deviation"].value < 0.02
    assert findings(recovered(), PHASE_S).evidence == ["attempt 1 on 4 ranks: fault killed"]


def test_a_soak_that_was_stopped_and_continued_has_a_pause_and_no_downtime():
    soak = recovered()
    asked = changed(soak, attempts=[attempt(1, 0, 575, "stopped"), attempt(2, 575, STEPS, "stopped")])
    time, whole = time_of(asked), time_of(healthy())
    assert (time.down_s, time.faults, time.uptime) == (0, 0, 1) and time.starts == [0, 575]
    assert time.trained_s == pytest.approx(whole.trained_s, rel=1e-3)
    rates = windows_of(asked, time).rates
    assert rates.min() > 0.95 * rates.max()


def test_attempts_that_never_trained_count_as_faults_and_their_time_as_lost():
    soak = recovered()
    between = [attempt(2, -1, -1, "fault"), attempt(3, 575, STEPS, "stopped")]
    time = time_of(changed(soak, attempts=[attempt(1, 0, 575, "stopped"), *between]))
    assert time.faults == 1 and time.down_s == pytest.approx(40, rel=0.05)


def test_a_soak_whose_supervisor_gave_up_is_a_problem_however_good_its_figures_are():
    assert findings(changed(healthy(), ended="the supervisor ended the soak by itself"), PHASE_S).problems == [
        "the supervisor ended the soak by itself"
    ]


def test_a_clock_that_goes_backwards_and_steps_that_are_missing_cannot_be():
    soak = healthy()
    back = soak.wall_s.copy()
    back[500:] -= 100
    assert "backwards at step 501" in findings(changed(soak, wall_s=back), PHASE_S).impossible[0]
    twice = soak.steps.copy()
    twice[500:] -= 1
    assert "there twice" in findings(changed(soak, steps=twice), PHASE_S).impossible[0]
