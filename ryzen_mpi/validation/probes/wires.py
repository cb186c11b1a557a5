"""TCP connections between ranks over the interface training takes, one for each pair: what the kernel sees of a link.

MPI would end the job where a link is broken; a socket tells which.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ryzen_mpi.cluster.world import World

CONNECT_S = 5.0
ANSWER_S = 10.0
_HELLO = struct.Struct("!QII")
_TCP_INFO = 192
"""Bytes of the kernel's struct tcp_info that are asked for."""
_TOTAL_RETRANS, _DATA_SEGS_OUT = 100, 156
"""Where they stand in it (linux/tcp.h)."""


@dataclass
class Wires:
    """This rank's ends.

    Attributes:
        interface: name and address by rank.
        peers: rank -> connected socket.
        failed: (rank, other rank, why) of all ranks; the same on all ranks.
    """

    interface: list[dict[str, str]]
    peers: dict[int, socket.socket] = field(default_factory=dict)
    failed: list[tuple[int, int, str]] = field(default_factory=list)

    @property
    def address(self) -> list[str]:
        return [item["address"] for item in self.interface]


@contextmanager
def connected(world: World, listen: str = "") -> Iterator[Wires]:
    """A connection for every pair of ranks that can have one, for as long as the block lasts. Collective.

    Each side tells who it is and for which job: an address that two hosts have is found. Raises UserError where the
    ranks share no network.
    """
    from ryzen_mpi.comm.rendezvous import choose_interface
    from ryzen_mpi.config import Distributed

    wires = Wires(world.exchange.allgather(vars(choose_interface(world, Distributed()))))
    token = world.exchange.broadcast(time.time_ns() % 2**63)
    with socket.create_server((listen or wires.address[world.rank], 0), backlog=1024) as listener:
        listener.settimeout(CONNECT_S + 1)
        ports = world.exchange.allgather(listener.getsockname()[1])
        failed: list[tuple[int, int, str]] = []
        for first in range(world.size):
            for second in range(first + 1, world.size):
                if world.rank in (first, second):
                    peer = second if world.rank == first else first
                    try:
                        wires.peers[peer] = _meet(wires, listener, (world.rank, peer), ports[peer], token)
                    except OSError as error:
                        failed.append((world.rank, peer, str(error.strerror or error)))
                world.exchange.allgather(None)  # the next pair begins when this one has ended
        wires.failed = [tuple(item) for rank in world.exchange.allgather(failed) for item in rank]
    try:
        yield wires
    finally:
        for link in wires.peers.values():
            with suppress(OSError):
                link.close()


def _meet(wires: Wires, listener: socket.socket, ends: tuple[int, int], port: int, token: int) -> socket.socket:
    """This rank's end: the lower rank calls, the higher answers. Raises OSError."""
    mine, peer = ends
    if mine < peer:  # from our own end, or a route by another interface would be found good
        link = socket.create_connection((wires.address[peer], port), CONNECT_S, (wires.address[mine], 0))
    else:
        link, _ = listener.accept()
    try:
        link.settimeout(ANSWER_S)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sendall(_HELLO.pack(token, mine, peer))
        if _HELLO.unpack(receive(link, _HELLO.size)) != (token, peer, mine):
            raise OSError("somebody else answers at this address")
    except BaseException:
        link.close()
        raise
    return link


def receive(link: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Local. Raises OSError."""
    parts, left = [], size
    while left:
        part = link.recv(min(left, 1 << 20))
        if not part:
            raise ConnectionResetError("the other side closed the connection")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def round_trips(link: socket.socket, first: bool, count: int) -> list[float]:
    """Microseconds of `count` round trips of 8 bytes by the clock of the side that is `first`; none on the other.

    Both sides call it. Raises OSError.
    """
    times, clock, message = [], time.perf_counter_ns, bytes(8)
    for _ in range(count):
        if first:
            began = clock()
            link.sendall(message)
            receive(link, 8)
            times.append((clock() - began) / 1e3)
        else:
            link.sendall(receive(link, 8))
    return times


def transfer(link: socket.socket, sends: bool, size: int) -> None:
    """`size` bytes from the side that `sends` to the other, which confirms them. Both sides call it. Raises OSError."""
    block = memoryview(bytes(1 << 20))
    if sends:
        left = size
        while left:
            left -= link.send(block[: min(left, len(block))])
        receive(link, 1)
        return
    left, room = size, bytearray(1 << 20)
    while left:
        got = link.recv_into(room, min(left, len(room)))
        if not got:
            raise ConnectionResetError("the other side closed the connection")
        left -= got
    link.sendall(b"!")


def segments(link: socket.socket) -> dict[str, int] | None:
    """Segments with data that this end sent, and of those the ones it had to send again; None if not told. Local."""
    try:
        info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO)
    except OSError:
        return None
    if len(info) < _DATA_SEGS_OUT + 4:  # a kernel before 4.6
        return None
    sent, again = (struct.unpack_from("=I", info, place)[0] for place in (_DATA_SEGS_OUT, _TOTAL_RETRANS))
    return {"sent": sent, "again": again}


def matchings(size: int) -> list[list[tuple[int, int]]]:
    """Rounds in which every rank has one partner at most, every pair once: the circle method of tournaments. Pure."""
    count = size + size % 2
    rounds: list[list[tuple[int, int]]] = []
    ring = list(range(count))
    for _ in range(count - 1):
        pairs = [tuple(sorted((ring[i], ring[-1 - i]))) for i in range(count // 2)]
        rounds.append([(a, b) for a, b in pairs if b < size])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return rounds


def mine(pairs: list[tuple[int, int]], rank: int) -> tuple[int, int] | None:
    """The pair this rank is of. Pure."""
    return next((pair for pair in pairs if rank in pair), None)


def describe(world_hosts: list[str], failed: list[tuple[int, int, str]]) -> list[str]:
    """A line for every pair that does not meet. Pure."""
    seen: dict[tuple[int, int], str] = {}
    for rank, peer, why in failed:
        first, second = sorted((rank, peer))
        seen.setdefault((first, second), why)
    return [
        f"rank {first} on {world_hosts[first]} and rank {second} on {world_hosts[second]} do not meet: {why}"
        for (first, second), why in seen.items()
    ]
