"""The frame around everything that runs on all ranks: how a job begins, fails and ends.

An error that every rank meets alike (wrong settings) is shown once and ends the job in order with exit code 2. An error
that one rank meets alone ends the whole job at once: the others would wait for it for ever.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from ryzen_mpi.cluster.exchange import fail_together
from ryzen_mpi.cluster.world import World, discover, rank_hint
from ryzen_mpi.errors import EXIT_USER_ERROR, PeerLost, Stopped, UserError

T = TypeVar("T")
ORDERLY_S = 3.0
"""Seconds the other ranks have to meet the same error before the job is aborted."""


def run_job(body: Callable[[World], int], tell: Callable[[str, str], object] = lambda end, text: None) -> int:
    """Discovers the world, runs `body(world)` and returns the exit code. Collective; does not raise Exceptions.

    `tell`: is given the words of `how_it_ends` as soon as an error is met, before anything is waited for.
    """
    try:
        world = discover()
    except UserError as error:
        tell(*how_it_ends(error))
        if rank_hint() == 0:
            _show(error)
        return EXIT_USER_ERROR
    try:
        code = body(world)
        world.exchange.close()
        return code
    except UserError as error:
        tell(*how_it_ends(error))
        return _leave(world, error)
    except KeyboardInterrupt as error:  # before training took the signals over
        tell(*how_it_ends(error))
        if world.size == 1 or str(error) != "SIGTERM":  # mpirun's to all when one of them failed: that one has spoken
            print(f"ryzen_mpi: rank {world.rank} interrupted", file=sys.stderr, flush=True)
        world.exchange.abort(130)
        return 130
    except Exception as error:
        tell(*how_it_ends(error))
        if _is_consequence(error):
            _let_the_cause_speak()
        _report(world, error)
        world.exchange.abort(1)
        return 1


def how_it_ends(error: BaseException) -> tuple[str, str]:
    """One of `beacon.ENDS` and the text to it, for a rank that `error` ends."""
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        return "stopped", str(error) or "interrupted"
    if isinstance(error, UserError):
        return "refused", str(error)
    if _is_consequence(error):
        return "lost", str(error)
    return "failed", f"{type(error).__name__}: {error}"


def leader_decides(world: World, act: Callable[[], T]) -> T:
    """Rank 0 runs `act`; all ranks get its (JSON-able) answer, or all raise its UserError. Collective."""
    answer: Any = None
    failure: list[str | None] | None = None
    stopped = False
    if world.is_leader:
        try:
            answer = act()
        except UserError as error:
            failure, stopped = [error.message, error.hint], isinstance(error, Stopped)
    answer, failure, stopped = world.exchange.broadcast([answer, failure, stopped])
    if failure is not None:
        raise (Stopped if stopped else UserError)(*failure)
    return answer


def all_agree(world: World, act: Callable[[], T]) -> T:
    """Every rank runs `act`; where it fails on some, all raise the UserError of the lowest of them. Collective."""
    answer, failure = None, None
    try:
        answer = act()
    except UserError as error:
        failure = UserError(f"rank {world.rank}: {error.message}" if world.size > 1 else error.message, error.hint)
    fail_together(world.exchange, failure)
    return answer  # type: ignore[return-value]


def _leave(world: World, error: UserError) -> int:
    """Shows the error once where all ranks met it; aborts the job where some rank did not."""
    together = world.comm is None or _all_here(world.comm)
    if world.is_leader or not together:
        _show(error)
    if together:
        world.exchange.close()
    else:
        world.exchange.abort(EXIT_USER_ERROR)
    return EXIT_USER_ERROR


def _all_here(comm: Any) -> bool:
    request, patience = comm.Ibarrier(), time.monotonic() + ORDERLY_S
    while not (done := request.Test()) and time.monotonic() < patience:
        time.sleep(0.01)
    return bool(done)


def _is_consequence(error: BaseException) -> bool:
    """Whether `error` only says that another rank has gone: what that rank says is what a person needs."""
    return isinstance(error, PeerLost) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _let_the_cause_speak() -> None:
    """Waits for the rank that failed first to end the job, this process with it and without a word."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    time.sleep(2 * ORDERLY_S)  # a rank with a UserError of its own waits ORDERLY_S for us to meet the same one


def _show(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


def _report(world: World, error: Exception) -> None:
    """The traceback of a rank that failed, in one write so that ranks' texts do not interleave."""
    text = "".join(traceback.format_exception(error))
    last = f"ryzen_mpi: rank {world.rank} on {world.hostname} failed, the job ends: {type(error).__name__}: {error}\n"
    sys.stderr.write(text + last)
    sys.stderr.flush()
