"""The supervisor's ear: takes the guards' reports, answers each, and keeps the newest of every rank."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from ryzen_mpi.supervisor.wire import MAX_BYTES, ORDERS, Plan, Report, new_token, seal, unseal


@dataclass
class Pulse:
    """One rank as its guard reports it.

    Attributes:
        report: the newest.
        heard: monotonic seconds it was last heard, by the address of ours that heard it.
        sender: where its answers go, by the address of ours that heard it.
    """

    report: Report
    heard: dict[str, float] = field(default_factory=dict)
    sender: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def heard_s(self) -> float:
        """When it was last heard over any network, monotonic."""
        return max(self.heard.values())


class Listener:
    """Hears the guards of one attempt, in a thread. As a context manager it ends with the block.

    Args:
        epoch: of the attempt.
        addresses: own addresses to listen on; one network each, so that the loss of one is told from that of a host.
        beat_s, lease_s: as the guards are told.
    """

    def __init__(self, epoch: int, addresses: Sequence[str], beat_s: float, lease_s: float) -> None:
        self._sockets = {address: _bound(address) for address in addresses}
        ports = [(address, link.getsockname()[1]) for address, link in self._sockets.items()]
        self.plan = Plan(epoch, new_token(), ports, beat_s, lease_s)
        self._pulses: dict[int, Pulse] = {}
        self._numbers: dict[tuple[int, str], int] = {}
        self._order = 0
        self._lock = threading.Lock()
        self._events = selectors.DefaultSelector()
        self._ours, self._theirs = socket.socketpair()
        self._events.register(self._theirs, selectors.EVENT_READ, None)
        for address, link in self._sockets.items():
            self._events.register(link, selectors.EVENT_READ, address)
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ours.send(b"end")
        self._thread.join()
        self._events.close()
        for link in (*self._sockets.values(), self._ours, self._theirs):
            link.close()

    def pulses(self) -> dict[int, Pulse]:
        """Every rank heard so far, as it is now."""
        with self._lock:
            return {rank: Pulse(p.report, dict(p.heard)) for rank, p in sorted(self._pulses.items())}

    def order(self, word: str) -> None:
        """Tells all guards `word` (one of ORDERS) at once, and with every answer from now on."""
        with self._lock:
            self._order = max(self._order, ORDERS.index(word))
            for pulse in self._pulses.values():
                for address, sender in pulse.sender.items():
                    self._answer(address, sender, pulse.report.number)

    def _listen(self) -> None:
        while True:
            for key, _ in self._events.select():
                if key.data is None:
                    return
                try:
                    datagram, sender = key.fileobj.recvfrom(MAX_BYTES)  # type: ignore[union-attr]
                except OSError:
                    continue
                report = self._report(datagram)
                if report is not None:
                    with self._lock:
                        self._take(report, key.data, sender)

    def _report(self, datagram: bytes) -> Report | None:
        message = unseal(self.plan.token, datagram)
        try:
            report = Report(**message) if message else None
        except TypeError:  # a guard of another version
            return None
        return report if report is not None and report.epoch == self.plan.epoch else None

    def _take(self, report: Report, address: str, sender: tuple[str, int]) -> None:
        pulse = self._pulses.get(report.rank)
        if pulse is None:
            pulse = self._pulses[report.rank] = Pulse(report)
        if report.number < pulse.report.number or report.number <= self._numbers.get((report.rank, address), -1):
            return  # overtaken on the way, or sent again by somebody
        pulse.report = report
        self._numbers[report.rank, address] = report.number
        pulse.heard[address], pulse.sender[address] = time.monotonic(), sender
        self._answer(address, sender, report.number)

    def _answer(self, address: str, sender: tuple[str, int], number: int) -> None:
        message = {"epoch": self.plan.epoch, "number": number, "order": ORDERS[self._order]}
        try:
            self._sockets[address].sendto(seal(self.plan.token, message), sender)
        except OSError:  # the network is away: the guard's lease knows
            pass


def _bound(address: str) -> socket.socket:
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    link.bind((address, 0))
    return link
