"""The supervisor's loop: attempt after attempt, until the run is complete, somebody stops it, or nothing helps."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ryzen_mpi.rundir import RunDirectory, write_atomic
from ryzen_mpi.supervisor import networks
from ryzen_mpi.supervisor.account import Account
from ryzen_mpi.supervisor.attempt import TICK_S, Attempt, Outcome
from ryzen_mpi.supervisor.job import Job
from ryzen_mpi.supervisor.ledger import Record
from ryzen_mpi.supervisor.listener import Listener
from ryzen_mpi.supervisor.policy import GiveUp, Start, decide
from ryzen_mpi.supervisor.state import load_state
from ryzen_mpi.supervisor.voice import Voice
from ryzen_mpi.supervisor.wishes import Wishes
from ryzen_mpi.units import duration_text

COMPLETE, FAILED, STOPPED = 0, 1, 75
"""Exit codes; 75 is EX_TEMPFAIL: started again, the run goes on."""
BEAT_S = 0.5
NOTE_S = 5.0
"""Seconds between two notes in state.json of how far an attempt is, for a supervisor that is killed."""


@dataclass
class Asked:
    """Number of the signal this process was asked to stop with, or 0."""

    stop: int = 0


class Supervisor:
    """Brings one job to its end. Used from one thread; the caller holds the run's supervisor lock.

    Args:
        wanted: ranks to start.
        asked: whether this process was asked to stop; signal handlers set it.
    """

    def __init__(self, job: Job, wanted: int, voice: Voice, asked: Asked) -> None:
        self.job, self.voice, self.files = job, voice, job.files
        self.state = load_state(self.files.state)
        if wanted != self.state.asked:  # else what was wished since (a resize, say) still holds after a requeue
            self.state.asked = self.state.wanted = wanted
        self.wishes = Wishes(job, self.state, voice)
        self.account = Account(job, self.state)
        self.asked = asked
        self.last = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nodes")
        self._answers: Future[tuple[list[str], dict[str, str]]] | None = None  # asked while an attempt was ended

    def run(self) -> int:
        """Attempts until the end; returns COMPLETE, FAILED or STOPPED. Raises UserError."""
        self.files.failed.unlink(missing_ok=True)
        self._outlive_predecessor()
        while not self.asked.stop and not self.wishes.requeue:
            answering, silent = self._answers.result() if self._answers else self.job.nodes.answering()
            self._answers = None
            for name, reason in silent.items():
                self.voice.say("node-silent", f"{name} does not answer: {reason}", "warning", node=name)
            start = decide(self.job.situation(self.state, answering, self.last))
            if isinstance(start, GiveUp):
                return self._give_up(start)
            if not self._pause(start.after_s):
                break
            record = self._prepare(start)
            if isinstance(record, GiveUp):
                return self._give_up(record)
            outcome, record = self._attempt(start, record)
            code = self._after(outcome, record)
            if code is not None:
                return code
        self.voice.say("stopped", self._how_to_go_on())
        return STOPPED

    # -- between attempts ---------------------------------------------------------------------------------------------

    def _outlive_predecessor(self) -> None:
        """A supervisor that was killed may have left ranks that nobody saw end: they end themselves."""
        state = self.state
        if state.ending and self._pause(0.0):
            text = f"attempt {state.epoch} was left by another supervisor: waiting {state.ending:g} s until its ranks "
            self.voice.say("predecessor", text + "must have ended themselves", epoch=state.epoch, seconds=state.ending)
            self._pause(state.ending)
        if state.records and state.records[-1].end == "under way":
            state.records[-1].end = "left"
        state.ending = 0.0
        for plan in self.files.folder.glob("attempt-*.json"):  # it holds a secret
            plan.unlink(missing_ok=True)

    def _pause(self, seconds: float) -> bool:
        """Waits; returns whether nobody asked to stop meanwhile."""
        until = time.monotonic() + seconds
        while not self.asked.stop and time.monotonic() < until:
            time.sleep(TICK_S)
        return not self.asked.stop

    def _after(self, outcome: Outcome, record: Record) -> int | None:
        """What follows from an attempt's end: an exit code, or None for another attempt."""
        if outcome.end == "complete":
            self.wishes.settle("the run is complete")
            self.voice.say("complete", f"complete at step {record.step}", step=record.step)
            return COMPLETE
        if outcome.end == "fault":
            self._learn(outcome, record)
            self.wishes.carry_out(record)
            if self._is_hopeless(outcome):
                return self._give_up(GiveUp(outcome.fault.evidence, "mend what it says and start again"))
            return None
        self.state.fruitless = 0
        if self.wishes.carry_out(record) or self.asked.stop or self.wishes.requeue:
            return None
        return self._unasked(outcome, record)

    def _unasked(self, outcome: Outcome, record: Record) -> int | None:
        """The ranks were told to stop, and this process was not: as `_after`."""
        what = f"the ranks were told to stop ({outcome.words}), this supervisor was not"
        if not self.job.nodes.job_goes_on():
            self.voice.say("stopped", f"{what}; {self._how_to_go_on()}")
            return STOPPED
        if signal.SIGUSR1.name in outcome.words:  # `scancel --signal=USR1 JOB` reaches the ranks alone
            self.voice.say("warned", f"{what}: taken for the whole job's")
            self.asked.stop = signal.SIGUSR1
            return None
        # Slurm may send the end of a job's former life, before it was requeued, to the processes of the present one.
        self.state.fruitless = 0 if record.saved > record.resumed else self.state.fruitless + 1
        self.last = what
        self.voice.say("stray-signal", f"{what}, and the job goes on: another attempt", "warning")
        return None

    def _learn(self, outcome: Outcome, record: Record) -> None:
        """Remembers a fault: who, where, whether the attempt had got anywhere."""
        state, fault = self.state, outcome.fault
        state.fruitless = 0 if record.saved > record.resumed else state.fruitless + 1
        if fault.host:
            state.strikes.setdefault(fault.host, []).append(time.time())
        state.networks_lost = networks.remember(state.networks_lost, outcome.networks_lost, self.job.interfaces)
        self.last = fault.evidence
        if fault.kind == "refused":
            self.wishes.refused(fault.evidence)

    def _is_hopeless(self, outcome: Outcome) -> bool:
        """A refusal at the very first start is a person's mistake: the next start would be refused as well."""
        return outcome.fault.kind == "refused" and all(record.step < 0 for record in self.state.records)

    def _give_up(self, end: GiveUp) -> int:
        self.wishes.settle(f"the supervisor gave up: {end.why}")
        content = {"why": end.why, "advice": end.advice, "epoch": self.state.epoch, "time": time.time()}
        try:
            write_atomic(self.files.failed, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            self.voice.say("marker", f"{self.files.failed} can't be written: {error.strerror}", "error")
        self.voice.say("failed", f"giving up: {end.why}", "error", advice=end.advice)
        self.voice.say("advice", f"what to do: {end.advice}")
        return FAILED

    def _how_to_go_on(self) -> str:
        return f"start again with --run-dir {self.job.run.path} to go on"

    # -- an attempt ---------------------------------------------------------------------------------------------------

    def _prepare(self, start: Start) -> Record | GiveUp:
        """The record of a new attempt, whose fence is open; or why there can't be one: a disk that takes nothing."""
        try:
            record = self.account.open(start.ranks, start.hosts)
            self._open_fence(RunDirectory(self.job.run.path, record.epoch))
        except OSError as error:
            self.state.records.pop()  # nothing was started: nobody has to wait for its end
            self.state.ending = 0.0
            with contextlib.suppress(OSError):
                self.state.save(self.files.state)
            last = f"; before that: {self.last}" if self.last else ""
            where = error.filename or self.job.run.path
            return GiveUp(
                f"{where} can't be written: {error.strerror or error}{last}",
                f"check the rights, mount and space of {self.job.run.path}, then start again: it goes on",
            )
        return record

    def _attempt(self, start: Start, record: Record) -> tuple[Outcome, Record]:
        state, job = self.state, self.job
        run = RunDirectory(job.run.path, record.epoch)
        with Listener(state.epoch, job.nodes.addresses(), BEAT_S, job.limits.lost_s) as listener:
            plan = self.files.plan(state.epoch)
            listener.plan.write(plan)
            words = self._words(start, plan)
            attempt = Attempt(listener, words, start.ranks, job.limits, lambda: _is_complete(run))
            self._say_start(start, words)
            attempt.launch(networks.environment(job.interfaces, state.networks_lost))
            outcome = self._watch(attempt, record)
            if outcome.fault is not None:
                self.voice.say(
                    "verdict", f"{outcome.fault.evidence}: ending the attempt", "warning", epoch=record.epoch
                )
                self._answers = self._thread.submit(self.job.nodes.answering)
            attempt.end(outcome)
            self._say_fault(outcome, record)
            self.account.close(attempt, outcome, record, run)
            plan.unlink(missing_ok=True)
        return outcome, record

    def _words(self, start: Start, plan: Path) -> list[str]:
        job, state = self.job, self.state
        extra = networks.words(job.interfaces, state.networks_lost)
        if state.resume:
            extra += ["--resume", state.resume]
        hosts = start.hosts if len(job.nodes.names) > 1 else {}
        return job.command.words(start.ranks, hosts, plan, extra)

    def _watch(self, attempt: Attempt, record: Record) -> Outcome:
        due = math.inf  # of the next note: the first as soon as it trains
        while True:
            outcome = attempt.poll()
            if outcome is not None:
                return outcome
            if self.asked.stop:
                attempt.ask_to_stop()
            self.wishes.look(attempt)
            if due == math.inf and attempt.track.first_step_s is not None or time.monotonic() > due:
                due = time.monotonic() + NOTE_S
                self.account.note(attempt, record)
            time.sleep(TICK_S)

    def _open_fence(self, run: RunDirectory) -> None:
        """No attempt but this one can commit anything from here on. Raises OSError."""
        for left in run.checkpoints.glob(".epoch-*"):
            number = left.name.rpartition("-")[2]
            if number.isdigit():
                RunDirectory(run.path, int(number)).close_staging()
        run.open_staging()

    # -- what is said -------------------------------------------------------------------------------------------------

    def _say_start(self, start: Start, words: list[str]) -> None:
        where = ", ".join(f"{host}: {count}" for host, count in start.hosts.items())
        why = f" ({start.why})" if start.why else ""
        text = f"attempt {self.state.epoch}: {start.ranks} ranks on {where}{why}"
        self.voice.say("attempt", text, epoch=self.state.epoch, ranks=start.ranks, command=" ".join(words))

    def _say_fault(self, outcome: Outcome, record: Record) -> None:
        if outcome.fault is None:
            return
        fault = outcome.fault
        seen = f"noticed after {duration_text(fault.age_s)}, " if fault.age_s is not None else ""
        self.voice.say(
            "fault",
            f"{fault.kind}: {fault.evidence} ({seen}ended in {duration_text(outcome.ended_s)})",
            "warning",
            epoch=record.epoch,
            cause=fault.kind,
            rank=fault.rank,
            node=fault.host,
            seen_s=fault.age_s,
            ended_s=outcome.ended_s,
            others=[other.evidence for other in outcome.others],
        )


def _is_complete(run: RunDirectory) -> bool:
    summary = run.read_complete()
    return summary is not None and summary.get("epoch") == run.epoch
