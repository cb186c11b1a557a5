"""Waiting for MPI requests without trusting that they ever end.

A blocking MPI call whose peer was killed or stopped never returns and cannot be interrupted. So every collective is
started, then polled: at full speed first, then yielding the core, then dozing, with a look at the clock, at Python's
signals and at the health of the other ranks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SPINS = 200
LOOK_S, DOZE_AFTER_S, DOZE_S = 0.02, 0.01, 50e-6


class Absent(Exception):
    """A rank did not come, or has gone.

    Attributes:
        reason: "late", "dead", "gave up" or "mismatch", as the kernel says it.
        peer: rank in the communicator, or None where it is not known which one.
    """

    def __init__(self, reason: str, peer: int | None) -> None:
        super().__init__(reason, peer)
        self.reason, self.peer = reason, peer


@dataclass
class Patience:
    """How long to wait, and whom to look at meanwhile.

    Attributes:
        timeout_s: seconds a wait may last.
        pids: processes of the ranks on this node by rank, where they can be seen; they are watched.
    """

    timeout_s: float
    pids: dict[int, int] = field(default_factory=dict)

    def dead(self) -> int | None:
        """A rank of this node that has ended, or None. Local."""
        for rank, pid in self.pids.items():
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return rank
            except PermissionError:
                continue
        return None

    def until(self, done: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Returns when `done()` holds. Raises Absent when it will not. Local."""
        for _ in range(SPINS):
            if done():
                return
        began = looked = time.monotonic()
        limit = self.timeout_s if timeout_s is None else timeout_s
        while not done():
            os.sched_yield()
            now = time.monotonic()
            if now - began > DOZE_AFTER_S:
                time.sleep(DOZE_S)
            if now - looked < LOOK_S:
                continue
            looked = now
            peer = self.dead()
            if (peer is not None or now - began > limit) and not done():
                raise Absent("late" if peer is None else "dead", peer)

    def finish(self, request: Any, timeout_s: float | None = None) -> None:
        """Waits for an mpi4py request. Local."""
        self.until(request.Test, timeout_s)
