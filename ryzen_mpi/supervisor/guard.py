"""The process beside every rank: starts it, tells the supervisor how it is, and ends it when it must not go on.

    python -m ryzen_mpi.supervisor.guard PLAN -- PROGRAM ARGUMENT...

It shares a page of memory with the rank (`beacon.py`) and needs nothing of it: a rank that is stopped, or holds the
interpreter's lock, is reported as well as a healthy one. Without an answer from the supervisor for `lease_s` it kills
the rank, so that the far side of a broken network is dead before anybody starts in its place. Standard library only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from ryzen_mpi import beacon
from ryzen_mpi.supervisor.wire import MAX_BYTES, ORDERS, Plan, Report, seal, unseal

RANK_VARIABLES = ("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
FIRST_ANSWER_S = 30.0
"""Seconds until the first answer: at the start of a large job all guards report at once."""
LAST_WORDS, LAST_WORD_S = 5, 0.2
LAUNCHER_GONE = signal.SIGHUP
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Runs one rank to its end; returns its exit code (128 + signal where it was killed)."""
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        print("usage: python -m ryzen_mpi.supervisor.guard PLAN -- PROGRAM ARGUMENT...", file=sys.stderr)
        return 2
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the launcher's daemons run shielded (launcher.py); ranks listen
    try:
        plan = Plan.read(Path(sys.argv[1]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        print(f"ryzen_mpi: the supervisor's plan {sys.argv[1]} can't be read: {error}", file=sys.stderr)
        return 2
    front = os.getpid()
    os.environ[beacon.LAUNCHER_VARIABLE] = str(os.getppid())
    guard = os.fork()
    if guard:
        return _stand_in_front(guard)
    os.setpgid(0, 0)  # a launcher kills the whole group of the process it knows
    die_with_parent(LAUNCHER_GONE)
    os._exit(Guard(plan, _rank(), sys.argv[3:], front).run())


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Has the kernel send this process `number` when the one that started it ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _stand_in_front(guard: int) -> int:
    """What the launcher knows as the rank: when it kills this process, the guard behind lives to tell of it."""
    die_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda received, _: os.kill(guard, received))
    return os.waitstatus_to_exitcode(os.waitpid(guard, 0)[1]) & 0xFF


class Guard:
    """One rank's process and what is known of it. Local."""

    def __init__(self, plan: Plan, rank: int, program: list[str], front: int) -> None:
        self.plan, self.program, self.front = plan, program, front
        page = os.memfd_create("ryzen-mpi-beacon")
        os.ftruncate(page, beacon.SIZE)
        self.memory = mmap.mmap(page, beacon.SIZE)
        self.page = page
        self.links: list[socket.socket | None] = [None] * len(plan.addresses)
        self.report = Report(plan.epoch, rank, socket.gethostname(), 0)
        self.order = 0
        self.began = self.moved = time.monotonic()
        self.answered = self.began + FIRST_ANSWER_S - plan.lease_s
        self.stopped_since: float | None = None
        self.sent: dict[int, float] = {}
        self.asked = self.met = False

    def run(self) -> int:
        """Until the rank has ended and the supervisor knows; returns the exit code."""
        with selectors.DefaultSelector() as events:
            self.events = events
            self._wake_on_signals(events)
            variables = {beacon.VARIABLE: str(self.page), beacon.EPOCH_VARIABLE: str(self.plan.epoch)}
            try:
                self.child = subprocess.Popen(
                    self.program, pass_fds=(self.page,), env=os.environ | variables, preexec_fn=die_with_parent
                )
            except OSError as error:
                print(f"ryzen_mpi: {self.program[0]}: {error.strerror}", file=sys.stderr)
                return 127
            self.report = replace(self.report, pid=self.child.pid)
            self._watch(events)
            self._last_words(events)
        code = self.child.returncode
        return code if code >= 0 else 128 - code

    def _watch(self, events: selectors.BaseSelector) -> None:
        due = 0.0
        while self.child.poll() is None:
            now = time.monotonic()
            if now >= due:
                self._send(now)
                due = now + self.plan.beat_s
            for key, _ in events.select(max(0.0, due - now)):
                self._hear(key.fileobj)
            if ORDERS[self.order] == "die":
                self._end("told to")
            elif os.getppid() != self.front:
                self._end("its launcher ended it")
            elif time.monotonic() > self.answered + self.plan.lease_s:
                self._end("lease lapsed")

    def _last_words(self, events: selectors.BaseSelector) -> None:
        """Tells how the rank ended until somebody heard it, for about a second."""
        ended = time.monotonic()
        for _ in range(LAST_WORDS):
            age_s = time.monotonic() - ended
            self.report = replace(self.report, ended=self.child.returncode, ended_age_s=age_s)
            self._send(time.monotonic())
            number, until = self.report.number, time.monotonic() + LAST_WORD_S
            while (left := until - time.monotonic()) > 0:
                for key, _ in events.select(left):
                    self._hear(key.fileobj)
                if number not in self.sent:
                    return

    def _send(self, now: float) -> None:
        reading = beacon.read_beacon(self.memory)
        if reading.beats != self.report.beats:
            self.moved = now
        state = _state(self.child.pid)
        if state not in "Tt":
            self.stopped_since = None
        elif self.stopped_since is None:
            self.stopped_since = now
        self.report = replace(
            self.report,
            number=self.report.number + 1,
            **vars(reading),
            quiet_s=now - self.moved,
            state=state,
            stopped_s=now - (self.stopped_since or now),
            unanswered_s=max(0.0, now - self.answered),
            met=self.met,
        )
        self.sent[self.report.number] = now
        for old in [number for number, at in self.sent.items() if at < now - 2 * self.plan.lease_s]:
            del self.sent[old]
        datagram = seal(self.plan.token, asdict(self.report))
        for place, (host, port) in enumerate(self.plan.addresses):
            link = self.links[place]
            if link is None and (link := _connect(host, port)) is not None:
                self.links[place] = link
                self.events.register(link, selectors.EVENT_READ)
            if link is not None:
                try:
                    link.send(datagram)
                except OSError:  # the network is away: the lease knows
                    pass

    def _hear(self, source: object) -> None:
        try:
            datagram = source.recv(MAX_BYTES)  # type: ignore[attr-defined]
        except OSError:  # ICMP's "nobody listens there", or nothing after all
            return
        answer = unseal(self.plan.token, datagram)
        if answer is None or answer.get("epoch") != self.plan.epoch:
            return
        # The lease runs from when the report was sent, not from when its answer came: that is what the supervisor
        # can count on without comparing clocks.
        sent = self.sent.pop(answer.get("number"), None)
        if sent is not None:  # the first answer ends the patience of the start
            self.answered = max(self.answered, sent) if self.met else sent
            self.met = True
        if answer.get("order") in ORDERS:
            self.order = max(self.order, ORDERS.index(answer["order"]))
        if ORDERS[self.order] == "stop":
            self._ask_to_stop(signal.SIGUSR1)

    def _ask_to_stop(self, number: int) -> None:
        """Once: after the rank has left its training loop another signal would only disturb its end."""
        if not self.asked and self.child.poll() is None:
            self.asked = True
            self.child.send_signal(number)

    def _end(self, why: str) -> None:
        if not self.report.why:
            self.report = replace(self.report, why=why)
            if why == "lease lapsed":
                where = f"rank {self.report.rank} on {self.report.host}"
                text = f"ryzen_mpi: {where} ended: the supervisor was not heard for {self.plan.lease_s:g} s"
                print(text, file=sys.stderr, flush=True)
        self.child.kill()

    def _wake_on_signals(self, events: selectors.BaseSelector) -> None:
        """A signal ends the wait; those that ask to stop are passed on to the rank, which saves first."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno())
        events.register(ours, selectors.EVENT_READ)
        for number in (signal.SIGCHLD, LAUNCHER_GONE):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, lambda received, _: self._ask_to_stop(received))
        self._wakers = ours, theirs


def _connect(host: str, port: int) -> socket.socket | None:
    """A datagram socket to that address only; None while there is no way to it."""
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.setblocking(False)
    try:
        link.connect((host, port))
    except OSError:
        link.close()
        return None
    return link


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "Z"


def _rank() -> int:
    return next((int(os.environ[name]) for name in RANK_VARIABLES if os.environ.get(name, "").isdigit()), 0)


if __name__ == "__main__":
    sys.exit(main())
