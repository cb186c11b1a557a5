"""Faults that a test plants around a check, in its process: each a context manager of the world, by name."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, nullcontext
from unittest import mock

import numpy as np

SLOW_S = 0.002
VICTIM = 1


@contextmanager
def flipped_bit(world):
    """Rank 1's memory loses a bit between writing and reading."""
    from ryzen_mpi.validation.probes import memory

    honest = memory.compare

    def compare(words, flipped, done):
        if world.rank == VICTIM and not flipped:
            words[1234] ^= np.uint64(1 << 40)
        honest(words, flipped, done)

    with mock.patch.object(memory, "compare", compare):
        yield


@contextmanager
def one_core_for_two(world):
    """The launcher bound all ranks to the first rank's core."""
    os.sched_setaffinity(0, {min(world.exchange.broadcast(sorted(os.sched_getaffinity(0))))})
    yield


@contextmanager
def unbound(world):
    """Ranks that nobody bound, and rank 1 does not go where it is told."""
    from ryzen_mpi.cluster import binding

    os.sched_setaffinity(0, set(range(os.cpu_count())))
    with mock.patch.object(binding, "apply", lambda mine: None) if world.rank == VICTIM else nullcontext():
        yield


@contextmanager
def _wrong_calls(owner):
    """`owner.prepare`, whose calls add 1 to an element on rank 1; few sizes, to be quick."""
    from ryzen_mpi.validation.checks import software

    honest = owner.prepare

    def prepare(self, *arguments):
        prepared = honest(self, *arguments)

        def spoiled(call, output):
            call()
            output[-1] += 1

        if prepared.outputs and _rank() == VICTIM:
            pairs = zip(prepared.calls, prepared.outputs, strict=True)
            prepared.calls = [lambda call=call, output=output: spoiled(call, output) for call, output in pairs]
        return prepared

    with mock.patch.object(owner, "prepare", prepare), mock.patch.object(software, "SIZES", (8, 4096)):
        yield


def _rank() -> int:
    from mpi4py import MPI

    return MPI.COMM_WORLD.rank


@contextmanager
def wrong_sums(world):
    """The MPI library adds wrongly on rank 1."""
    from ryzen_mpi.bench.sides import Raw

    with _wrong_calls(Raw):
        yield


@contextmanager
def wrong_gloo(world):
    """Gloo's results are wrong on rank 1."""
    from ryzen_mpi.bench.sides import Dist

    with _wrong_calls(Dist):
        yield


@contextmanager
def no_barrier(world):
    """A barrier of Gloo at which nobody waits."""
    from ryzen_mpi.bench.prepared import Prepared
    from ryzen_mpi.bench.sides import Dist

    honest = Dist.prepare

    def prepare(self, operation, *rest):
        return Prepared([lambda: None]) if operation == "barrier" else honest(self, operation, *rest)

    with mock.patch.object(Dist, "prepare", prepare):
        yield


@contextmanager
def no_gloo(world):
    """A PyTorch without Gloo."""
    import torch.distributed as dist

    with mock.patch.object(dist, "is_gloo_available", lambda: False):
        yield


@contextmanager
def slow_pair(world):
    """What rank 0 sends to rank 1 is held up."""
    from ryzen_mpi.bench.messages import RawMessages

    honest, start = RawMessages.send, RawMessages.start_send

    def send(self, message, peer):
        if (world.rank, peer) == (0, VICTIM):
            time.sleep(SLOW_S)
        honest(self, message, peer)

    def start_send(self, message, peer, tag=0):
        if (world.rank, peer) == (0, VICTIM):
            time.sleep(SLOW_S / 20)  # of each message of a window
        return start(self, message, peer, tag)

    with mock.patch.object(RawMessages, "send", send), mock.patch.object(RawMessages, "start_send", start_send):
        yield


@contextmanager
def no_way(world):
    """Ranks 0 and 1 do not reach one another."""
    from ryzen_mpi.validation.probes import wires

    honest = wires._meet

    def meet(ends, listener, pair, port, token):
        if set(pair) == {0, VICTIM}:
            raise OSError(113, "No route to host")
        return honest(ends, listener, pair, port, token)

    with mock.patch.object(wires, "_meet", meet):
        yield


@contextmanager
def doubled_address(world):
    """Who answers at rank 1's address is somebody else."""
    from ryzen_mpi.validation.probes import wires

    class Other:
        size = wires._HELLO.size

        def pack(self, token, mine, peer):
            return wires.struct.pack("!QII", token ^ (world.rank == VICTIM), mine, peer)

        def unpack(self, data):
            return wires.struct.unpack("!QII", data)

    with mock.patch.object(wires, "_HELLO", Other()):
        yield


@contextmanager
def interrupted(world):
    """Rank 1's connection breaks after some rounds."""
    with _trips(world, 10, ConnectionResetError(104, "Connection reset by peer")):
        yield


@contextmanager
def held_up(world):
    """Rank 1 answers late every tenth time."""
    with _trips(world, 10, None):
        yield


def _trips(world, every: int, error: Exception | None):
    from ryzen_mpi.validation.probes import wires

    honest, calls = wires.round_trips, iter(range(1, 1 << 30))

    def round_trips(link, first, count):
        if world.rank == VICTIM and next(calls) % every == 0:
            if error is not None:
                raise error
            time.sleep(0.03)
        return honest(link, first, count)

    return mock.patch.object(wires, "round_trips", round_trips)


@contextmanager
def pretended_card(world):
    """The network card claims to carry less than what is measured."""
    from ryzen_mpi.validation.probes import counters

    with mock.patch.object(counters, "speed_mbit_s", lambda name: 100):
        yield
