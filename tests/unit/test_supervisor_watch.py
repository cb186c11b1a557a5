"""From heartbeats to a verdict: every kind of fault, what is none, and which of several is the cause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ryzen_mpi.supervisor.attempt import networks_lost
from ryzen_mpi.supervisor.listener import Pulse
from ryzen_mpi.supervisor.watch import KINDS, Limits, all_said, judge
from ryzen_mpi.supervisor.wire import Report

NOW = 1000.0
LIMITS = Limits(timeout_s=15, lost_s=10, start_s=300, step_factor=3)
GOOD = Report(1, 0, "n1", 99, number=8, beats=100, resumed=0, step=50, saved=40, trained_s=5.0, phase="train")


def pulse(rank: int, heard_ago_s: float = 0.1, **changes: object) -> Pulse:
    return Pulse(replace(GOOD, rank=rank, host=f"n{rank}", **changes), {"10.0.0.1": NOW - heard_ago_s})


def verdict(
    *pulses: Pulse, ranks: int | None = None, p99_s: float = 0.0, age_s: float = 100.0
) -> list[tuple[str, int]]:
    by_rank = {p.report.rank: p for p in pulses}
    faults = judge(by_rank, len(pulses) if ranks is None else ranks, NOW - age_s, NOW, p99_s, LIMITS)
    return [(fault.kind, fault.rank) for fault in faults]


@pytest.mark.parametrize(
    ("kind", "heard_ago_s", "changes"),
    [
        ("killed", 0, {"ended": -9}),
        ("killed", 0, {"ended": -11, "phase": "save"}),
        ("killed", 0, {"ended": -63}),  # a signal without a name
        ("exited", 0, {"ended": 0}),  # "success" without a word proves nothing
        ("exited", 0, {"ended": 1}),
        ("failed", 0, {"phase": "failed", "text": "ValueError: x"}),
        ("failed", 0, {"phase": "failed", "ended": 1}),
        ("refused", 0, {"phase": "refused", "text": "no such key"}),
        ("lapsed", 0, {"ended": -9, "why": "lease lapsed"}),
        ("launcher", 0, {"ended": -9, "why": "its launcher ended it"}),
        ("silent", 10.1, {}),
        ("stopped", 0, {"state": "T", "stopped_s": 15.1}),
        ("stopped", 3, {"state": "t", "stopped_s": 12.1}),
        ("hung", 0, {"quiet_s": 300.1}),
        ("hung", 0, {"quiet_s": 300.1, "phase": "start"}),
        ("lost", 0, {"phase": "lost", "text": "connection closed"}),
    ],
)
def test_every_kind_of_fault_is_seen(kind, heard_ago_s, changes):
    faults = judge({0: pulse(0, heard_ago_s, **changes)}, 1, NOW - 100, NOW, 0.0, LIMITS)
    assert [f.kind for f in faults] == [kind] and kind in KINDS
    assert "rank 0 on n0" in faults[0].evidence and faults[0].age_s is not None and faults[0].age_s >= heard_ago_s


@pytest.mark.parametrize(
    ("heard_ago_s", "changes"),
    [
        (0, {}),
        (9.9, {}),
        (0, {"quiet_s": 299.0}),  # no step has shown yet what a step takes
        (0, {"phase": "save", "quiet_s": 299.0}),
        (0, {"state": "T", "stopped_s": 14.9}),
        (0, {"state": "D", "quiet_s": 100.0}),
        (500, {"phase": "complete", "ended": 0}),
        (500, {"phase": "complete"}),
        (0, {"phase": "complete", "ended": -9}),
        (0, {"phase": "complete", "quiet_s": 1e6, "state": "T", "stopped_s": 1e6}),
        (500, {"phase": "stopped", "ended": 1}),
    ],
)
def test_what_is_slow_or_has_finished_is_no_fault(heard_ago_s, changes):
    assert verdict(pulse(0, heard_ago_s, **changes)) == []


def test_a_step_hangs_when_it_takes_longer_than_the_timeout_and_three_times_the_usual():
    assert verdict(pulse(0, quiet_s=15.1), p99_s=0.1) == [("hung", 0)]
    assert verdict(pulse(0, quiet_s=14.9), p99_s=0.1) == []
    assert verdict(pulse(0, quiet_s=59.9), p99_s=20.0) == []
    assert verdict(pulse(0, quiet_s=60.1), p99_s=20.0) == [("hung", 0)]
    assert verdict(pulse(0, quiet_s=299, phase="evaluate"), p99_s=0.1) == []  # that is no step


def test_ranks_that_never_report_are_told_together_after_the_time_of_a_start():
    assert verdict(pulse(1), ranks=4, age_s=299) == []
    (fault,) = judge({1: pulse(1)}, 4, NOW - 301, NOW, 0.0, LIMITS)
    assert (fault.kind, fault.rank) == ("absent", 0) and "rank 0, 2, 3 did not report in 300 s" in fault.evidence
    assert verdict(ranks=2, age_s=301) == [("absent", 0)]


def test_causes_come_before_their_consequences():
    found = verdict(
        pulse(0, phase="lost", text="connection closed by peer"),
        pulse(1, ended=-9, why="its launcher ended it"),
        pulse(2, quiet_s=20),
        pulse(3, ended=-11),
        p99_s=0.1,
    )
    assert found[0] == ("killed", 3) and [kind for kind, _ in found] == ["killed", "hung", "lost", "launcher"]


def test_of_several_that_were_killed_the_first_is_the_cause():
    assert verdict(pulse(0, ended=-9, ended_age_s=0.1), pulse(1, ended=-9, ended_age_s=0.4))[0] == ("killed", 1)


def test_a_lost_contact_is_put_on_the_rank_it_names_or_else_on_the_only_quiet_one():
    lost = {"phase": "lost"}
    named = pulse(0, **lost, text="rank 2 on n2 did not come to step 51")
    assert verdict(named, pulse(1), pulse(2)) == [("lost", 2)]
    assert verdict(pulse(0, **lost, text="closed"), pulse(1), pulse(2, **lost)) == [("lost", 1), ("lost", 1)]
    assert verdict(pulse(0, **lost, text="closed"), pulse(1), pulse(2)) == [("lost", -1)]


def test_all_have_said_only_when_all_have_left():
    said = [pulse(rank, phase="stopped", ended=0) for rank in range(3)]
    pulses = {p.report.rank: p for p in said}
    assert all_said(pulses, 3, "stopped") and not all_said(pulses, 4, "stopped") and not all_said(pulses, 3, "complete")
    assert not all_said(pulses | {1: pulse(1, phase="stopped")}, 3, "stopped")
    assert not all_said({}, 2, "stopped")


def test_a_network_is_lost_when_a_host_is_heard_over_another_only():
    both = Pulse(GOOD, {"10.0.0.1": NOW, "10.0.1.1": NOW - 4.9})
    one = Pulse(GOOD, {"10.0.0.1": NOW, "10.0.1.1": NOW - 5.1})
    neither = Pulse(GOOD, {"10.0.0.1": NOW - 100, "10.0.1.1": NOW - 100})
    assert networks_lost({0: both, 1: neither}, LIMITS) == []
    assert networks_lost({0: both, 1: one}, LIMITS) == ["10.0.1.1"]
