"""What makes a healthy attempt stop: a person's request, or a node that is back."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ryzen_mpi.supervisor import requests
from ryzen_mpi.supervisor.attempt import Attempt
from ryzen_mpi.supervisor.job import Job
from ryzen_mpi.supervisor.ledger import Record
from ryzen_mpi.supervisor.policy import GiveUp, decide
from ryzen_mpi.supervisor.requests import Request
from ryzen_mpi.supervisor.state import State
from ryzen_mpi.supervisor.voice import Voice
from ryzen_mpi.units import duration_text

LOOK_S = 0.5
GROW_AFTER_S, PROBE_EVERY_S = 20.0, 10.0
"""An attempt smaller than wanted trains as long (twice as long each time) before nodes are asked, and then as often."""


class Wishes:
    """Looks for them while an attempt runs, has it stop, and carries them out before the next. Used from one thread.

    Attributes:
        requeue: nodes that Slurm has taken out of the allocation are whole again: only a new allocation has them.
    """

    def __init__(self, job: Job, state: State, voice: Voice) -> None:
        self.job, self.state, self.voice = job, state, voice
        self.requeue = False
        self._request: Request | None = None  # the ranks are leaving for it
        self._carried: Request | None = None  # the next attempt has it, and has not trained yet
        self._taken_s, self._before = 0.0, 0
        self._growing, self._growths = False, 0
        self._looked = self._probed = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self._probe: Future[tuple[list[str], dict[str, str]]] | None = None

    def look(self, attempt: Attempt) -> None:
        """Called again and again while `attempt` runs; may ask it to stop."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if self._carried is not None and attempt.track.first_step_s is not None:
            where = f"from step {attempt.track.resumed}, {duration_text(now - self._taken_s)} after"
            self._answer(self._carried, True, f"{attempt.ranks} ranks train {where}")
            self._carried = None
        if attempt.stop_asked_s is not None or self._carried is not None:
            return
        if not self._take_request(attempt, now):
            self._look_for_nodes(attempt, now)

    def carry_out(self, record: Record) -> bool:
        """After the attempt `record` has ended: makes the next one as was wished; False where nothing was wished."""
        request, self._request = self._request, None
        grew, self._growing = self._growing, False
        if request is None:
            return grew
        self._before = self.state.wanted
        self.state.wanted = request.ranks or max(self.job.least, record.ranks // 2)
        if request.step is not None:
            self.state.resume = str(self._checkpoint(request.step))
        self._carried = request
        return True

    def refused(self, why: str) -> None:
        """The attempt made for a wish was refused before it trained: back to what it was."""
        if self._carried is not None:
            self.state.wanted, self.state.resume = self._before, None
            self._answer(self._carried, False, f"refused by the training: {why}")
            self._carried = None

    def settle(self, text: str) -> None:
        """The supervisor ends: whoever still waits is told so."""
        waiting = [r for r in (self._request, self._carried) if r is not None]
        for request in waiting or requests.pending(self.job.files):
            self._answer(request, False, text)
        self._thread.shutdown(wait=False, cancel_futures=True)

    # -- people -------------------------------------------------------------------------------------------------------

    def _take_request(self, attempt: Attempt, now: float) -> bool:
        for request in requests.pending(self.job.files):
            if problem := self._problem(request, attempt):
                self._answer(request, False, problem)
                continue
            self._request, self._taken_s = request, now
            target = request.ranks or max(self.job.least, attempt.ranks // 2)
            back = f" from step {request.step}" if request.step is not None else ""
            cause = f": {request.why}" if request.why else ""
            self.voice.say(
                request.kind,
                f"{request.by} asks for {request.kind} to {target} ranks{back}{cause}; the ranks save and leave",
                by=request.by,
                why=request.why,
                ranks=target,
                step=attempt.track.step,
            )
            attempt.ask_to_stop()
            return True
        return False

    def _problem(self, request: Request, attempt: Attempt) -> str | None:
        job = self.job
        if request.kind == "resize" and not request.ranks:
            return "resize to how many ranks? At least 1"
        ranks = request.ranks
        if ranks is not None and ranks < job.least:
            return f"{ranks} ranks asked for, at least {job.least} are needed (distributed.min_processes)"
        room = len(job.nodes.names) * (job.per_node or ranks or 1)
        if ranks is not None and ranks > room:
            return f"{ranks} ranks asked for, {len(job.nodes.names)} nodes of {job.per_node} hold {room}"
        if request.kind == "resize" and ranks == attempt.ranks and ranks == self.state.wanted:
            return f"there are {ranks} ranks already"
        if request.step is not None and not self._checkpoint(request.step).is_dir():
            there = ", ".join(p.name for p in sorted(job.run.checkpoints.glob("step-*"))) or "none"
            return f"there is no checkpoint of step {request.step}; there are: {there}"
        return None

    def _checkpoint(self, step: int) -> Path:
        return self.job.run.checkpoints / f"step-{step:08d}"

    def _answer(self, request: Request, done: bool, text: str) -> None:
        self.voice.say(f"{request.kind}-answer", text, "info" if done else "warning", by=request.by)
        with contextlib.suppress(OSError):
            requests.answer(self.job.files, request, done, text)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def _look_for_nodes(self, attempt: Attempt, now: float) -> None:
        """Asks, in a thread of its own, which nodes answer; grows when they hold more ranks than are running."""
        track = attempt.track
        if attempt.ranks >= self.state.wanted or track.first_step_s is None or track.saved <= track.resumed:
            return
        if self._probe is None:
            due = track.first_step_s + GROW_AFTER_S * 2**self._growths, self._probed + PROBE_EVERY_S
            if now >= max(due):
                self._probe = self._thread.submit(self.job.nodes.answering)
        elif self._probe.done():
            probe, self._probe, self._probed = self._probe, None, now
            if probe.exception() is None:
                self._grow(attempt, *probe.result())

    def _grow(self, attempt: Attempt, answering: list[str], silent: dict[str, str]) -> None:
        start = decide(replace(self.job.situation(self.state, answering, ""), fruitless=0))
        if not isinstance(start, GiveUp) and start.ranks > attempt.ranks:
            self._growths += 1
            self._growing = True
            text = f"room for {start.ranks} ranks again; the ranks save and leave to go on as many"
        elif silent and self.job.nodes.are_back(list(silent)):
            self.requeue = True
            text = f"{', '.join(silent)} can be had again with a new allocation; the ranks save and the job is requeued"
        else:
            return
        self.voice.say("grow", text, ranks=attempt.ranks, wanted=self.state.wanted)
        attempt.ask_to_stop()
