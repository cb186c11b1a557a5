"""One attempt: a launch of all ranks under an epoch number of its own, watched to its end and ended for good."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from ryzen_mpi.errors import UserError
from ryzen_mpi.supervisor.guard import FIRST_ANSWER_S, die_with_parent
from ryzen_mpi.supervisor.leavings import remove_leavings
from ryzen_mpi.supervisor.ledger import Track
from ryzen_mpi.supervisor.listener import Listener, Pulse
from ryzen_mpi.supervisor.watch import AT_ONCE, Fault, Limits, all_said, judge

MARK = "RYZEN_MPI_ATTEMPT"
"""In the environment of all that an attempt starts on this host."""
TICK_S = 0.1
SETTLE_S, LOST_SETTLE_S = 0.3, 2.0
"""Seconds from the first sign of a fault to the verdict: the cause may be seen a moment after its consequence."""
LAST_REPORTS_S = 1.5
"""Seconds for the guards' last words after the launcher has ended."""
LAUNCHER_S = 5.0
"""Seconds for the launcher to end after all ranks have, or were told to, before it is killed."""
LEAVE_S = 15.0
"""Seconds for ranks to be gone once all have said that they are done: MPI's own end can hang."""
LEASE_MARGIN_S = 1.0


@dataclass
class Outcome:
    """How an attempt ended.

    Attributes:
        end: "complete", "stopped" (on request, saved) or "fault".
        fault: what went wrong, where it did.
        others: further faults seen at the same time.
        ended_s: seconds from the verdict to the last process' end.
        networks_lost: own addresses over which nothing was heard any more although the host was heard.
        words: the last of a rank that stopped on request.
    """

    end: str
    fault: Fault | None = None
    others: list[Fault] = field(default_factory=list)
    ended_s: float = 0.0
    networks_lost: list[str] = field(default_factory=list)
    words: str = ""


class Attempt:
    """A launch and its watch. Used from one thread.

    Args:
        listener: hears the guards; already listening.
        words: the whole command.
        ranks: how many it starts.
        limits: when something counts as broken.
        is_complete: whether the completion marker of this epoch is on disk.
    """

    def __init__(
        self, listener: Listener, words: Sequence[str], ranks: int, limits: Limits, is_complete: Callable[[], bool]
    ) -> None:
        self.listener, self.words, self.ranks, self.limits = listener, words, ranks, limits
        self.is_complete = is_complete
        self.track = Track()
        self.stop_asked_s: float | None = None
        self._suspect_since: float | None = None
        self._told_since: float | None = None

    def launch(self, variables: Mapping[str, str]) -> None:
        """Starts it with `variables` beside the environment. Raises UserError where the launcher can't be started."""
        self.launched_s = time.monotonic()
        try:
            self.process = subprocess.Popen(
                self.words,
                env=os.environ | variables | {MARK: "1"},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_before_launcher,
            )
        except OSError as error:
            raise UserError(f"{self.words[0]} can't be started: {error.strerror}", "is it on PATH?") from None

    def ask_to_stop(self) -> None:
        """Has all ranks save and leave at their next step; what does not is found by the watch. Repeats do nothing."""
        if self.stop_asked_s is None:
            self.stop_asked_s = time.monotonic()
            self.listener.order("stop")

    def poll(self) -> Outcome | None:
        """What became of it; None while it runs well. Does not wait longer than a second or two."""
        pulses, now = self._heard()
        faults = judge(pulses, self.ranks, self.launched_s, now, self.track.step_p99_s(), self.limits)
        if self.stop_asked_s is not None:
            faults = [fault for fault in faults if not _left_when_asked(fault)]
        if self.process.poll() is not None:
            return self._after_launcher()
        if (end := self._told_by_all(pulses, now)) is not None:
            return Outcome(end)
        if not faults and len(pulses) == self.ranks and _all_ended(pulses):
            self._wait_for_launcher()
            return self._after_launcher()
        return self._verdict(faults, now)

    def end(self, outcome: Outcome) -> None:
        """Ends whatever is left, on every host: returns when no process of the attempt can be running any more."""
        began = time.monotonic()
        self.listener.order("die")
        self._wait_for_launcher()
        # a guard that is killed before it told of its rank's end costs a lease
        patience = time.monotonic() + LAST_REPORTS_S
        while not _all_ended(self.listener.pulses()) and time.monotonic() < patience:
            time.sleep(TICK_S)
        kill_descendants()
        while left := self._leases(time.monotonic()):
            time.sleep(min(left, TICK_S))
        pulses, _ = self._heard()  # last words tell what was trained between the last beat and the end
        remove_leavings(self.process.pid)
        outcome.ended_s = time.monotonic() - began
        reports = [pulse.report for pulse in pulses.values()]
        outcome.words = next((report.text for report in reports if report.phase == "stopped"), "")
        if outcome.fault is not None and outcome.fault.kind in ("launcher", "lost"):
            outcome.fault = _vanished(pulses, outcome.fault)

    def _heard(self) -> tuple[dict[int, Pulse], float]:
        """The newest reports by rank, of which the track is told, and the monotonic time."""
        pulses, now = self.listener.pulses(), time.monotonic()
        self.track.take(pulses, self.ranks, now)
        return pulses, now

    def _told_by_all(self, pulses: dict[int, Pulse], now: float) -> str | None:
        """How all ranks said they end, where they have not left LEAVE_S later: nothing is lost then."""
        said = {pulse.report.phase for pulse in pulses.values()}
        if len(pulses) < self.ranks or said not in ({"complete"}, {"stopped"}):
            return None
        self._told_since = self._told_since or now
        end = said.pop()
        overdue = now - self._told_since > LEAVE_S and (end == "stopped" or self.is_complete())
        return end if overdue else None

    def _verdict(self, faults: list[Fault], now: float) -> Outcome | None:
        if not faults:
            self._suspect_since = None
            return None
        if self._suspect_since is None:
            self._suspect_since = now
        settle_s = SETTLE_S if faults[0].kind in AT_ONCE else LOST_SETTLE_S
        return self._faulty(faults) if now - self._suspect_since > settle_s else None

    def _faulty(self, faults: list[Fault]) -> Outcome:
        first, *others = faults
        return Outcome("fault", first, others, networks_lost=networks_lost(self.listener.pulses(), self.limits))

    def _after_launcher(self) -> Outcome:
        """The launcher has ended: its exit code says nothing, the marker and the ranks' last words do."""
        began = time.monotonic()
        while True:
            pulses, now = self._heard()
            if self.is_complete():
                return Outcome("complete")
            if all_said(pulses, self.ranks, "stopped") or self._all_left_when_asked(pulses):
                return Outcome("stopped")
            faults = judge(pulses, self.ranks, self.launched_s, now, 0.0, self.limits)
            known = bool(faults) and faults[0].kind in AT_ONCE
            if now - began > (SETTLE_S if known else LAST_REPORTS_S):
                break
            time.sleep(TICK_S)
        return self._faulty(faults or [self._of_launcher(pulses)])

    def _all_left_when_asked(self, pulses: dict[int, Pulse]) -> bool:
        asked = self.stop_asked_s is not None
        return asked and all(p.report.phase == "stopped" or p.report.ended is not None for p in pulses.values())

    def _of_launcher(self, pulses: dict[int, Pulse]) -> Fault:
        done = sum(p.report.phase in ("complete", "stopped") for p in pulses.values())
        text = (
            f"the launcher ended with exit code {self.process.returncode}, {len(pulses)} of {self.ranks} ranks "
            f"had reported and {done} had finished: there is no completion marker of this attempt"
        )
        return Fault("launcher", -1, "", text)

    def _wait_for_launcher(self) -> None:
        try:
            self.process.wait(LAUNCHER_S)
        except subprocess.TimeoutExpired:
            kill_descendants()
            self.process.wait()

    def _leases(self, now: float) -> float:
        """Seconds until the last rank that was heard and did not say that it ended must have ended itself."""
        left = [
            p.heard_s + (self.listener.plan.lease_s if p.report.met else FIRST_ANSWER_S) + LEASE_MARGIN_S - now
            for p in self.listener.pulses().values()
            if p.report.ended is None
        ]
        return max(0.0, max(left, default=0.0))


def _all_ended(pulses: dict[int, Pulse]) -> bool:
    return all(pulse.report.ended is not None for pulse in pulses.values())


def networks_lost(pulses: dict[int, Pulse], limits: Limits) -> list[str]:
    """Own addresses that have not heard some rank for half of `lost_s` although another of ours has. Pure."""
    lost = set()
    for pulse in pulses.values():
        newest = pulse.heard_s
        lost |= {address for address, at in pulse.heard.items() if newest - at > limits.lost_s / 2}
    return sorted(lost)


def _vanished(pulses: dict[int, Pulse], fault: Fault) -> Fault:
    """The cause behind a launcher's end or a lost contact: ranks that never said how they ended, if there are any."""
    silent = [p for p in pulses.values() if p.report.ended is None]
    if not silent:
        return fault
    names = ", ".join(f"rank {p.report.rank} on {p.report.host}" for p in silent)
    age_s = min(time.monotonic() - p.heard_s for p in silent)
    evidence = f"{names}: not heard any more; {fault.evidence}"
    return Fault("silent", silent[0].report.rank, silent[0].report.host, evidence, age_s)


def kill_descendants() -> None:
    """SIGKILL to everything an attempt started, and what that left behind (this process is its reaper)."""
    for process in psutil.Process().children(recursive=True):
        try:
            if MARK in process.environ():  # and no question to Slurm that is under way
                process.kill()
                remove_leavings(process.pid)
        except psutil.Error:
            continue


def _left_when_asked(fault: Fault) -> bool:
    """A rank that was asked before it could listen: the signal itself ended it."""
    return fault.kind == "exited" or (fault.kind == "killed" and "SIGUSR1" in fault.evidence)


def _before_launcher() -> None:
    """In the child: ends with the supervisor; and is deaf to what Slurm sends a whole job that is to go.

    mpirun answers SIGTERM by killing the ranks after 0.25 s. Blocked, it leaves them the time to save: they get the
    signal themselves.
    """
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
