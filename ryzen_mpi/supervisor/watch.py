"""From heartbeats to a verdict: what is wrong with an attempt, on which rank, and how it is known. Pure functions."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from ryzen_mpi.supervisor.listener import Pulse
from ryzen_mpi.supervisor.wire import Report
from ryzen_mpi.units import duration_text

KINDS = (
    *("killed", "exited", "failed", "refused", "lapsed"),
    *("stopped", "silent", "hung", "absent", "lost", "launcher"),
)
"""Faults, causes before consequences: where several are seen at once, the first in this order is the cause."""
AT_ONCE = ("killed", "exited", "failed", "refused", "launcher")
"""Those that need no second look; the others may be the consequence of something that shows a moment later."""


@dataclass(frozen=True)
class Limits:
    """How long what may take, in seconds.

    Attributes:
        timeout_s: of a step, and of a rank that is stopped; distributed.timeout_s.
        lost_s: without a report.
        start_s: to the first report of every rank, without a sign of life while it starts, and to the first steps.
        slow_s: without a sign of life from rank 0 while it reads or writes what may be large; the others wait for it.
        step_factor: a step may take this often the 99th percentile of the steps so far.
    """

    timeout_s: float = 15.0
    lost_s: float = 10.0
    start_s: float = 300.0
    slow_s: float = 1800.0
    step_factor: float = 3.0


@dataclass(frozen=True)
class Fault:
    """What went wrong.

    Attributes:
        kind: one of KINDS.
        rank, host: where; -1 and "" where it is nobody's in particular.
        evidence: a sentence.
        age_s: seconds since it happened, as far as can be told; else None.
    """

    kind: str
    rank: int
    host: str
    evidence: str
    age_s: float | None = None


def judge(
    pulses: Mapping[int, Pulse], ranks: int, launched_s: float, now: float, step_p99_s: float, limits: Limits
) -> list[Fault]:
    """All faults that can be seen now, the cause first.

    Args:
        pulses: by rank, as heard.
        ranks: how many there should be.
        launched_s, now: monotonic seconds of the launch and of the question.
        step_p99_s: 99th percentile of the attempt's steps; 0 while there are too few.
    """
    found = [fault for pulse in pulses.values() if (fault := _fault_of(pulse, now, step_p99_s, limits))]
    missing = [rank for rank in range(ranks) if rank not in pulses]
    if missing and now - launched_s > limits.start_s:
        who = ", ".join(map(str, missing))
        found.append(Fault("absent", missing[0], "", f"rank {who} did not report in {limits.start_s:g} s"))
    # of several that were killed the first: its launcher kills the others
    found.sort(key=lambda fault: (KINDS.index(fault.kind), -(fault.age_s or 0.0)))
    return [_blamed(fault, pulses) for fault in found]


def all_said(pulses: Mapping[int, Pulse], ranks: int, end: str) -> bool:
    """Whether every rank told `end` ("complete", "stopped") and has left."""
    reports = [pulse.report for pulse in pulses.values()]
    return len(reports) == ranks and all(r.phase == end and r.ended is not None for r in reports)


def _fault_of(pulse: Pulse, now: float, step_p99_s: float, limits: Limits) -> Fault | None:
    report = pulse.report
    where, silent_s = f"rank {report.rank} on {report.host}", now - pulse.heard_s

    def fault(kind: str, evidence: str, age_s: float | None = None) -> Fault:
        return Fault(kind, report.rank, report.host, evidence, age_s)

    if report.phase in ("complete", "stopped"):
        return None
    if report.phase in ("failed", "refused", "lost"):
        evidence = f"{where}: {report.text}" if report.text else f"{where} {report.phase}"
        return fault(report.phase, evidence, report.quiet_s + silent_s)
    if report.ended is not None:
        return fault(*_ending(report, where), report.ended_age_s + silent_s)
    if silent_s > limits.lost_s:
        return fault("silent", f"{where} was last heard {duration_text(silent_s)} ago, at step {report.step}", silent_s)
    if report.stopped_s + silent_s > limits.timeout_s and report.state in "Tt":
        return fault(
            "stopped", f"{where} has been stopped (state T) for {duration_text(report.stopped_s)}", report.stopped_s
        )
    limit = _quiet_limit(report, step_p99_s, limits)
    if report.quiet_s > limit:
        told = f"99 % of its steps took under {duration_text(step_p99_s)}" if step_p99_s else f"limit {limit:g} s"
        moved = f"{where} has not moved for {duration_text(report.quiet_s)} in {report.phase}"
        return fault("hung", f"{moved}, step {report.step + 1} ({told})", report.quiet_s)
    return None


def _quiet_limit(report: Report, step_p99_s: float, limits: Limits) -> float:
    """Seconds a rank may show no sign of life in the phase it is in."""
    if report.phase in ("data", "restore", "save", "leave"):
        return limits.slow_s if report.rank == 0 else math.inf  # the others wait for rank 0
    if report.phase == "train" and step_p99_s:
        return max(limits.timeout_s, limits.step_factor * step_p99_s)
    return limits.start_s


def _ending(report: Report, where: str) -> tuple[str, str]:
    """Kind and evidence of a process that ended without a word of its own."""
    if report.why == "lease lapsed":
        return "lapsed", f"{where} ended itself: its guard did not hear the supervisor"
    if report.why == "its launcher ended it":
        return "launcher", f"{where} was left by what had started it, in {report.phase}, step {report.step}"
    if report.ended is not None and report.ended < 0:
        return "killed", f"{where} was killed by {_signal_name(-report.ended)} in {report.phase}, step {report.step}"
    return "exited", f"{where} ended with exit code {report.ended} in {report.phase}, without having finished"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_NAMED = re.compile(r"rank (\d+) on (\S+) did not come")


def _blamed(fault: Fault, pulses: Mapping[int, Pulse]) -> Fault:
    """A lost contact is the other rank's fault: the one it names, or else the one that said nothing."""
    if fault.kind != "lost":
        return fault
    named = _NAMED.search(fault.evidence)
    if named:
        return Fault("lost", int(named[1]), named[2], fault.evidence, fault.age_s)
    quiet = [p.report for p in pulses.values() if p.report.phase != "lost" and p.report.ended is None]
    if len(quiet) == 1:
        return Fault("lost", quiet[0].rank, quiet[0].host, fault.evidence, fault.age_s)
    return Fault("lost", -1, "", fault.evidence, fault.age_s)
