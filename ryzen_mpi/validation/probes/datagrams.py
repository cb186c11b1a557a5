"""Numbered datagrams between two ranks, each counted: what the network loses, repeats or brings out of order.

A window of datagrams is sent, then the receiver tells over a TCP connection how many came: it cannot be flooded, and so
what is missing was lost on the way and not in a buffer of its own. Nothing is sent again: UDP tells what TCP hides.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ryzen_mpi.validation.probes.wires import receive

WINDOW = 32
PAYLOAD = 1200
"""Bytes: with headers below every usual MTU, so that one datagram is one packet."""
QUIET_S = 0.05
"""A datagram that has not come this long after the last is lost."""
ENOUGH_LOST = 200
"""No more need be counted: every window with a loss costs QUIET_S."""
BUFFER_BYTES = 4 << 20
HOPS_SENT = 64
_HEAD = struct.Struct("!QQ")
_WORD = struct.Struct("!Q")
_STOP = 2**64 - 1
IP_RECVTTL = 12
"""linux/in.h; Python has no name for it before 3.14."""


@dataclass
class Count:
    """What the receiver saw.

    Attributes:
        sent, received: datagrams; each counted once, however often it came.
        repeated, late: that came again, and that came after one of a higher number.
        strangers: that were not of this job.
        hops: routers on the way -> how many datagrams.
    """

    sent: int = 0
    received: int = 0
    repeated: int = 0
    late: int = 0
    strangers: int = 0
    hops: Counter[int] = field(default_factory=Counter)

    def told(self) -> dict[str, Any]:
        """JSON-able. Local."""
        return asdict(self) | {"hops": {str(hops): count for hops, count in self.hops.items()}}


def open_socket(address: str) -> socket.socket:
    """A socket on `address` that tells the time to live of what comes. Local. Raises OSError."""
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    found.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOPS_SENT)
    found.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    found.bind((address, 0))
    found.settimeout(QUIET_S)
    return found


def send(data: socket.socket, control: socket.socket, to: tuple[str, int], count: int, token: int) -> None:
    """Sends `count` numbered datagrams, or fewer where enough were lost. Raises OSError.

    The other side calls `count_received` at the same time.
    """
    filling = bytes(PAYLOAD - _HEAD.size)
    for begin in range(0, count, WINDOW):
        end = min(begin + WINDOW, count)
        for number in range(begin, end):
            try:
                data.sendto(_HEAD.pack(token, number) + filling, to)
            except PermissionError:  # a filter on this host drops what is sent: lost like any other
                continue
        control.sendall(_WORD.pack(end))
        if _WORD.unpack(receive(control, _WORD.size))[0] == _STOP:
            return


def count_received(data: socket.socket, control: socket.socket, count: int, token: int) -> Count:
    """Counts what comes of `count` datagrams. Raises OSError where the connection beside them breaks."""
    found, seen, highest = Count(), bytearray(count), -1
    for begin in range(0, count, WINDOW):
        end = _WORD.unpack(receive(control, _WORD.size))[0]
        wanted = end - begin
        while wanted:
            try:
                number, hops = _one(data, token)
            except TimeoutError:
                break
            if number is None or number >= count:
                found.strangers += 1
            elif seen[number]:
                found.repeated += 1
            else:
                seen[number] = 1
                found.received += 1
                found.late += number < highest
                highest = max(highest, number)
                found.hops[hops] += 1
                wanted -= number >= begin
        found.sent = end
        enough = found.sent - found.received >= ENOUGH_LOST
        control.sendall(_WORD.pack(_STOP if enough else end))
        if enough:
            break
    return found


def _one(data: socket.socket, token: int) -> tuple[int | None, int]:
    """(number of the datagram or None for a stranger's, routers it passed)."""
    message, extra, _, _ = data.recvmsg(PAYLOAD + 1, socket.CMSG_SPACE(4))
    ttl = next((struct.unpack("=i", value[:4])[0] for level, kind, value in extra
                if level == socket.IPPROTO_IP and kind == socket.IP_TTL), HOPS_SENT)  # fmt: skip
    if len(message) != PAYLOAD or _WORD.unpack_from(message)[0] != token:
        return None, 0
    return _HEAD.unpack_from(message)[1], HOPS_SENT - ttl
