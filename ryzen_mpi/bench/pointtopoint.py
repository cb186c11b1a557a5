"""Point-to-point as OSU measures it: a ping-pong, and windows of 64 messages one way or both ways."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ryzen_mpi.bench.catalog import WINDOW
from ryzen_mpi.bench.messages import Messages
from ryzen_mpi.bench.options import DataType
from ryzen_mpi.bench.prepared import Prepared, vectors

ANSWER, FORTH, BACK = 101, 100, 10
"""Tags, as in osu_bw.c and osu_bibw.c."""


def prepare(
    messages: Messages, operation: str, count: int, datatype: DataType, buffers: int, pair: tuple[int, int], rank: int
) -> Prepared:
    """`latency`, `bw` or `bibw` between the two ranks of `pair`; on the other ranks calls that do nothing. Local.

    One call is a round trip (latency: half of its time counts), or a window of 64 messages. Sources: osu_latency.c,
    osu_bw.c, osu_bibw.c of the OSU Micro-Benchmarks 7.
    """
    if rank not in pair:
        return Prepared([_nothing] * buffers)
    first, peer = rank == pair[0], pair[1] if rank == pair[0] else pair[0]
    dtype = getattr(torch, datatype.torch)
    sent, received = vectors(count, dtype, buffers), vectors(count, dtype, buffers)
    out, room = [messages.message(tensor) for tensor in sent], [messages.message(tensor) for tensor in received]
    if operation == "latency":
        turn = _ping if first else _pong
        calls = [partial(turn, messages, a, b, peer) for a, b in zip(out, room, strict=True)]
        return Prepared(calls, sent, received)
    out, room = _windowed(out), _windowed(room)
    if operation == "bibw":
        tags = (FORTH, BACK) if first else (BACK, FORTH)
        return Prepared([partial(_both_ways, messages, out, room, peer, *tags)], sent, received)
    answer = messages.message(torch.zeros(4 // datatype.size or 1, dtype=dtype))
    if first:
        return Prepared([partial(_send_window, messages, out, answer, peer)], sent, [])
    return Prepared([partial(_receive_window, messages, room, answer, peer)], sent, received)


def prepare_ring(
    messages: Messages, distance: int, count: int, datatype: DataType, buffers: int, rank: int, ranks: int
) -> Prepared:
    """A window of 64 messages from every rank to the one `distance` further, all at once, as mpiGraph does. Local.

    Source: mpiGraph (https://github.com/LLNL/mpiGraph), mpiGraph.c, code().
    """
    dtype = getattr(torch, datatype.torch)
    sent, received = vectors(count, dtype, buffers), vectors(count, dtype, buffers)
    out = _windowed([messages.message(tensor) for tensor in sent])
    room = _windowed([messages.message(tensor) for tensor in received])
    to, source = (rank + distance) % ranks, (rank - distance) % ranks
    return Prepared([partial(_shift, messages, out, room, to, source)], sent, received)


def _nothing() -> None:
    pass


def _windowed(items: list[Any]) -> list[Any]:
    return [items[i % len(items)] for i in range(WINDOW)]


def _ping(messages: Messages, out: Any, room: Any, peer: int) -> None:
    messages.send(out, peer)
    messages.receive(room, peer)


def _pong(messages: Messages, out: Any, room: Any, peer: int) -> None:
    messages.receive(room, peer)
    messages.send(out, peer)


def _send_window(messages: Messages, out: list[Any], answer: Any, peer: int) -> None:
    start = messages.start_send
    messages.finish([start(message, peer, FORTH) for message in out])
    messages.finish([messages.start_receive(answer, peer, ANSWER)])


def _receive_window(messages: Messages, room: list[Any], answer: Any, peer: int) -> None:
    start = messages.start_receive
    messages.finish([start(message, peer, FORTH) for message in room])
    messages.finish([messages.start_send(answer, peer, ANSWER)])


def _both_ways(messages: Messages, out: list[Any], room: list[Any], peer: int, send_tag: int, receive_tag: int) -> None:
    requests = [messages.start_receive(message, peer, receive_tag) for message in room]
    requests += [messages.start_send(message, peer, send_tag) for message in out]
    messages.finish(requests)


def _shift(messages: Messages, out: list[Any], room: list[Any], to: int, source: int) -> None:
    requests = [messages.start_receive(message, source) for message in room]
    requests += [messages.start_send(message, to) for message in out]
    messages.finish(requests)
