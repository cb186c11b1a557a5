"""The run's account over all attempts, kept in state.json while an attempt runs and closed when it has ended."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict

from ryzen_mpi.rundir import RunDirectory, write_atomic
from ryzen_mpi.supervisor.attempt import LEASE_MARGIN_S, Attempt, Outcome
from ryzen_mpi.supervisor.guard import FIRST_ANSWER_S
from ryzen_mpi.supervisor.job import Job
from ryzen_mpi.supervisor.ledger import Record, Summary, Track, summarise
from ryzen_mpi.supervisor.state import State

IDLE_REQUEUES = 1
"""Requeues in a row that may have saved nothing: one may have come at a bad moment."""


class Account:
    """Enters attempts into `state` and puts it on the disk. Used from one thread."""

    def __init__(self, job: Job, state: State) -> None:
        self.job, self.state, self.files = job, state, job.files
        self._began, self._before_s = time.monotonic(), state.supervised_s
        self._saved_before = self._saved()
        self._track: tuple[int, Track] = (0, Track())  # of the attempt that ended last

    def open(self, ranks: int, hosts: dict[str, int]) -> Record:
        """The record of a new attempt, under a new epoch. Raises OSError where it can't be kept."""
        state = self.state
        state.epoch += 1
        record = Record(state.epoch, ranks, hosts, time.time())
        state.records.append(record)
        state.ending = FIRST_ANSWER_S + LEASE_MARGIN_S
        state.save(self.files.state)
        return record

    def note(self, attempt: Attempt, record: Record) -> None:
        """Keeps how far it is, for a supervisor that comes after this one was killed."""
        track = attempt.track
        record.resumed, record.step, record.saved = track.resumed, track.step, track.saved
        record.trained_s = record.kept_s = track.trained_s
        record.seconds = time.monotonic() - attempt.launched_s
        record.first_step_s = track.first_step_s and track.first_step_s - attempt.launched_s
        record.import_s = track.imported_s and track.imported_s - attempt.launched_s
        if track.first_step_s is not None:  # gone back as was asked: the next attempt goes on from what this one saves
            self.state.resume = None
        for before in self.state.records[:-1]:  # a rollback may undo several; an attempt that never trained undoes none
            if 0 <= track.resumed < before.step:
                before.kept_s = min(before.kept_s, self._kept(before, track.resumed))
        if len(attempt.listener.pulses()) == attempt.ranks:
            self.state.ending = self.job.limits.lost_s + LEASE_MARGIN_S
        self.state.supervised_s = self._supervised_s()
        with contextlib.suppress(OSError):  # a full disk: the next note may find room
            self.state.save(self.files.state)

    def close(self, attempt: Attempt, outcome: Outcome, record: Record, run: RunDirectory) -> None:
        """Nothing of the attempt runs any more: takes its staging folder away and enters it into the account."""
        self.note(attempt, record)
        record.end, record.ended_s = outcome.end, outcome.ended_s
        if outcome.fault is not None:
            fault = outcome.fault
            record.cause, record.evidence, record.seen_s = fault.kind, fault.evidence, fault.age_s
        self._track = record.epoch, attempt.track
        self.state.ending = 0.0
        with contextlib.suppress(OSError):
            run.close_staging()
            if record.resumed >= 0:  # the heartbeats tell of a checkpoint one step late
                record.saved = max(record.saved, self.files.newest_step())
            if outcome.end == "fault":
                record.kept_s = self._kept(record, max(record.saved, record.resumed))
            self.state.save(self.files.state)
            write_atomic(self.files.summary, json.dumps(asdict(self.summary()), indent=1) + "\n")

    def idle_problem(self) -> str | None:
        """Why a requeue would only go round in circles; None where it would not.

        A time limit that is shorter than its own warning stops every start before it has saved anything.
        """
        idle = self._saved() <= self._saved_before
        self.state.idle_requeues = self.state.idle_requeues + 1 if idle else 0
        self.state.save(self.files.state)
        if self.state.idle_requeues <= IDLE_REQUEUES:
            return None
        return (
            f"{self.state.idle_requeues} starts in a row were stopped before they had saved a checkpoint: is the time "
            "limit longer than the warning before it (sbatch --time, --signal)?"
        )

    def summary(self) -> Summary:
        """The account so far."""
        return summarise(self.state.records, self._supervised_s())

    def _kept(self, record: Record, step: int) -> float:
        """Seconds of `record`'s steps up to `step`."""
        if self._track[0] == record.epoch:
            return self._track[1].trained_until(step)
        steps = max(1, record.step - max(0, record.resumed))
        return record.trained_s * max(0, step - max(0, record.resumed)) / steps

    def _saved(self) -> int:
        return max((record.saved for record in self.state.records), default=-1)

    def _supervised_s(self) -> float:
        return self._before_s + time.monotonic() - self._began
