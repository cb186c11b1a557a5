"""The rules of machines: straggler, memory, heat, progress, network."""

from __future__ import annotations

import numpy as np
import pytest
from health_looks import GIB, RANKS, acts_of, gauges, look, run

from ryzen_mpi.health.rules.heat import Heat
from ryzen_mpi.health.rules.memory import Memory
from ryzen_mpi.health.rules.network import Network
from ryzen_mpi.health.rules.progress import Progress
from ryzen_mpi.health.rules.straggler import Straggler
from ryzen_mpi.health.samples import Samples

# -- straggler --------------------------------------------------------------------------------------------------------


def waits(slow_rank: int, times: float, base: float = 0.5):
    """Communication times of ranks that compute `base` of a second's step, but one that takes longer."""

    def at(step: int) -> np.ndarray:
        computed = base * (1 + 0.02 * ((step * 5 + np.arange(RANKS)) % 4))
        computed[slow_rank] *= times
        return 3.0 - computed

    return at


def slow(steps, rank=2, times=5.0, step_s=1.0, **changes):
    return run(
        steps,
        rank_step_s=lambda step: np.full(RANKS, 3.0),
        rank_communication_s=waits(rank, times),
        clock_s=lambda step: step_s * step,
        **changes,
    )


def test_a_slow_rank_is_told_once_and_when_it_is_over():
    looks = [*slow(range(1, 100), times=1.0), *slow(range(100, 300)), *slow(range(300, 400), times=1.0)]
    first, over = acts_of(Straggler(), looks)
    assert (first.kind, first.rank, first.node) == ("warn", 2, "node2") and 100 <= first.step <= 110
    assert "times as long as the others" in first.evidence and first.figures["more"] == pytest.approx(4, rel=0.1)
    assert over.rank == 2 and over.figures["over"] == 1 and 300 < over.step <= 330


def test_one_that_gets_worse_is_told_again():
    looks = [*slow(range(1, 200), times=1.3), *slow(range(200, 400), times=3.0)]
    assert [act.figures["more"] > 1 for act in acts_of(Straggler(), looks)] == [False, True]


def test_what_lasts_milliseconds_is_a_scheduler_and_no_straggler():
    looks = [*slow(range(1, 100), times=1.0, step_s=0.01), *slow(range(100, 200), step_s=0.01)]
    assert acts_of(Straggler(), looks + slow(range(200, 300), times=1.0, step_s=0.01)) == []


def test_ranks_that_take_turns_at_being_slow_are_none():
    at = lambda step: waits(step % RANKS, 5.0)(step)  # noqa: E731
    looks = run(range(1, 400), rank_step_s=lambda step: np.full(RANKS, 3.0), rank_communication_s=at)
    assert acts_of(Straggler(), looks) == []


def test_a_rank_with_a_larger_share_of_the_samples_is_not_slow():
    assert acts_of(Straggler([2, 2, 4, 2]), slow(range(1, 300), times=2.0)) == []
    assert len(acts_of(Straggler([2, 2, 2, 2]), slow(range(1, 300), times=2.0))) == 1


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"swap_bytes": [0, 0, 2 * GIB, 0]}, "swap"),
        ({"major_faults": [0, 0, 300.0, 0]}, "swap"),
        ({"clock_hz": [3e9, 3e9, 1.2e9, 3e9]}, "clock"),
        ({"clock_hz": [3e9, 3e9, 1.2e9, 3e9], "throttles": [0, 0, 9, 9]}, "heat"),
        ({"runqueue_share": [0, 0, 0.5, 0.5]}, "binding"),
        ({"runqueue_share": [0, 0, 0.5, 0]}, "another process"),
        ({"cpu_pressure": [0.1, 0.1, 0.9, 0.9]}, "another process"),
        ({"cpu_pressure": 0.9}, "unknown"),
        ({"cpu_pressure": [0.1, 0.1, 0.9, 0.1]}, "another process"),
        ({"memory_pressure": [0, 0, 0.6, 0]}, "memory"),
        ({}, "unknown"),
        ({"clock_hz": np.nan, "runqueue_share": np.nan, "swap_bytes": np.nan}, "unknown"),
    ],
)
def test_the_likely_cause_is_what_the_gauges_tell(changes, cause):
    (act,) = acts_of(Straggler(), slow(range(1, 60), gauges=lambda step: gauges(**changes)))
    assert act.figures["cause"] == cause and f"likely cause: {cause}" in act.evidence


# -- memory -----------------------------------------------------------------------------------------------------------


def sampled(*values: float, name: str = "memory_available_bytes", every: int = 5, **others) -> list:
    """Looks at node2 whose gauge takes these values, one after the other, each for some steps."""
    looks = []
    for sample, value in enumerate(values):
        found = gauges(sample=sample, **{name: [QUIET_LEFT if name.startswith("memory_av") else 0.0] * 2 + [value] * 2})
        found |= {key: np.array([0.0, 0.0, value, value]) for key, value in others.items()}
        looks += [look(every * sample + n + 1, gauges=found) for n in range(every)]
    return looks


QUIET_LEFT = 40 * GIB


def of_samples(acts, every: int = 5):
    """Sample number, kind and node."""
    return [((act.step - 1) // every, act.kind, act.node) for act in acts]


def test_memory_that_runs_short_is_told_then_micro_batches_halved_then_saved_and_stopped():
    falling = [gib * GIB for gib in (20, 8, 6, 6, 3, 3, 3, 3, 3, 3, 3, 3, 3, 1)]
    acts = acts_of(Memory(Samples(), micro_batch=4), sampled(*falling))
    assert of_samples(acts) == [
        (3, "warn", "node2"),
        (5, "halve_micro_batch", "node2"),
        (8, "halve_micro_batch", "node2"),
        (11, "warn", "node2"),  # of one sample already
        (13, "save_and_stop", "node2"),
    ]
    assert acts[-1].figures["left_bytes"] == GIB


def test_a_rule_that_may_only_warn_asks_once():
    acts = acts_of(Memory(Samples(), 16), sampled(*[3 * GIB] * 12), carried_out=False)
    assert [act.kind for act in acts] == ["halve_micro_batch"]


def test_the_same_gauges_seen_at_many_steps_are_one_sample():
    assert acts_of(Memory(Samples(), 16), sampled(3 * GIB, every=200)) == []


def test_pressure_counts_one_stage_more_where_little_is_left_and_nothing_elsewhere():
    pressed = {"memory_pressure": 0.5}
    assert [a.kind for a in acts_of(Memory(Samples(), 4), sampled(10 * GIB, 10 * GIB, **pressed))] == ["warn"]
    acts = acts_of(Memory(Samples(), 4), sampled(5 * GIB, 5 * GIB, **pressed))
    assert [act.kind for act in acts] == ["halve_micro_batch"] and "waited for memory 50 %" in acts[0].evidence
    assert acts_of(Memory(Samples(), 4), sampled(30 * GIB, 31 * GIB, 30 * GIB, **pressed)) == []


def test_on_a_large_machine_a_tenth_is_much():
    large = {"memory_limit_bytes": 1024 * GIB}
    assert acts_of(Memory(Samples(), 4), sampled(*[50 * GIB] * 4, **large)) == []
    assert of_samples(acts_of(Memory(Samples(), 4), sampled(*[15 * GIB] * 4, **large)))[0][1] == "warn"


def test_memory_that_is_back_is_told_after_a_while():
    acts = acts_of(Memory(Samples(), 4), sampled(*[6 * GIB] * 2, *[20 * GIB] * 10))
    assert [(act.kind, act.figures.get("over", 0)) for act in acts] == [("warn", 0), ("warn", 1)]


# -- heat -------------------------------------------------------------------------------------------------------------


def test_a_node_that_throttles_gets_fewer_threads_then_pauses_and_all_back_when_cool():
    acts = acts_of(Heat(Samples(), [4] * RANKS), sampled(*[5.0] * 9, *[0.0] * 20, name="throttles"))
    assert of_samples(acts) == [
        (2, "fewer_threads", "node2"),
        (5, "fewer_threads", "node2"),
        (8, "pause", "node2"),
        (14, "all_threads", "node2"),
    ]
    assert [act.figures.get("threads") for act in acts] == [2, 1, None, 4] and acts[2].figures["seconds"] > 0


def test_heat_at_the_limit_without_counts_acts_too():
    hot = {"throttles": np.nan}
    acts = acts_of(Heat(Samples(), [4] * RANKS), sampled(96, 97, 96, name="temperature_c", **hot))
    assert of_samples(acts) == [(2, "fewer_threads", "node2")]


def test_a_single_throttling_is_an_event_and_no_sensor_is_no_heat():
    assert acts_of(Heat(Samples(), [4] * RANKS), sampled(*[3.0, 0.0, 0.0, 5.0] * 4, name="throttles")) == []
    assert acts_of(Heat(Samples(), [4] * RANKS), sampled(*[np.nan] * 9, name="throttles", temperature_c=np.nan)) == []


def test_it_does_not_swing():
    hot_and_cool = [*[5.0] * 3, *[0.0] * 8] * 6
    acts = acts_of(Heat(Samples(), [2] * RANKS), sampled(*hot_and_cool, name="throttles"))
    assert [act.kind for act in acts].count("all_threads") == 1  # then twelve cool samples are asked for


def test_heat_that_may_only_warn_is_told_once():
    acts = acts_of(Heat(Samples(), [4] * RANKS), sampled(*[5.0] * 30, name="throttles"), carried_out=False)
    assert [act.kind for act in acts] == ["fewer_threads"]


# -- progress ---------------------------------------------------------------------------------------------------------


def test_steps_that_take_several_times_as_long_on_end_are_told_and_when_it_is_over():
    looks = run(range(1, 200), rank_step_s=lambda step: np.full(RANKS, 30.0 if 100 <= step < 120 else 2.0))
    acts = acts_of(Progress(), looks)
    assert [(act.step, act.figures.get("over", 0)) for act in acts] == [(104, 0), (124, 1)]


def test_single_slow_steps_are_no_lack_of_progress():
    looks = run(range(1, 200), rank_step_s=lambda step: np.full(RANKS, 300.0 if step % 10 < 3 else 2.0))
    assert acts_of(Progress(), looks) == []


def test_some_milliseconds_more_are_no_lack_of_progress():
    looks = run(range(1, 200), rank_step_s=lambda step: np.full(RANKS, 0.5 if 100 <= step < 115 else 0.02))
    assert acts_of(Progress(), looks) == []


def test_a_pace_that_lasts_becomes_the_usual_one():
    rule = Progress()
    acts_of(rule, run(range(1, 800), rank_step_s=lambda step: np.full(RANKS, 30.0 if step >= 100 else 2.0)))
    slower = run(range(800, 1000), rank_step_s=lambda step: np.full(RANKS, 300.0))
    assert [act.figures["usual_s"] for act in acts_of(rule, slower)][0] == 30.0


def test_checkpoints_that_do_not_come_are_told_and_when_they_do_again():
    def at(step):
        newest = step - step % 50 if step < 120 or step > 400 else 100
        return gauges() | {"checkpoint_step": np.full(RANKS, float(newest or -1))}

    acts = acts_of(Progress(save_interval=50), run(range(1, 450), gauges=at))
    assert [(act.step, act.figures.get("over", 0)) for act in acts] == [(221, 0), (401, 1)]
    assert "no checkpoint since step 100" in acts[0].evidence


# -- network ----------------------------------------------------------------------------------------------------------


def test_a_node_that_sends_much_again_is_told_and_when_it_is_over():
    counts = [*[3.0] * 10, *[900.0] * 5, *[2.0] * 5]
    acts = acts_of(Network(Samples()), sampled(*counts, name="retransmits"))
    assert of_samples(acts) == [(12, "warn", "node2"), (17, "warn", "node2")]
    assert [act.figures["over"] for act in acts] == [0, 1]


def test_bursts_of_lost_packets_and_networks_that_always_lose_some_are_usual():
    bursts = [*[3.0] * 10, 900.0, 900.0, 3.0] * 3
    assert acts_of(Network(Samples()), sampled(*bursts, name="packets_lost")) == []
    assert acts_of(Network(Samples()), sampled(*[40.0, 49.0, 30.0] * 10, *[300.0] * 5, name="packets_lost")) == []


def test_on_one_node_there_is_no_network():
    looks = [look(n, ranks=2, gauges=gauges(2, n, retransmits=900.0)) for n in range(1, 50)]
    assert acts_of(Network(Samples()), looks) == []


def test_ranks_look_at_their_own_times_and_the_first_one_speaks_for_its_node():
    samples, first = Samples(), gauges()
    assert [s.rank for s in samples.new(look(1, gauges=first))] == [0, 1, 2, 3]
    assert samples.new(look(2, gauges={**first})) == []
    later = {**first, "switches": np.array([0, 5, 5, 0])}
    assert [(s.rank, s.of_node) for s in samples.new(look(3, gauges=later))] == [(1, False), (2, True)]
