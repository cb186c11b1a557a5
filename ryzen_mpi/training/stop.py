"""Being asked to stop: a signal sets a number, the step boundary asks for it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ryzen_mpi.errors import Stopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; mpirun's and Slurm's request to end; Slurm's warning before the time limit, and the supervisor's request."""


class StopRequest:
    """Remembers the first stop signal this process was sent, for as long as the block lasts. Local.

    A launcher may send several (mpirun turns Ctrl-C into SIGTERM): the later ones change nothing.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._agreed_at = 0.0
        self._at_once = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def agreed(self, number: int) -> int:
        """Takes the signal all ranks have agreed to stop with, or 0, and returns it."""
        if number:
            self._agreed_at = time.monotonic()
        return number

    @property
    def since_agreed_s(self) -> float:
        """Seconds since all ranks agreed to stop."""
        return time.monotonic() - self._agreed_at

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a stop signal raises Stopped where the program stands: for long work that may be left half done."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def check(self) -> None:
        """Raises Stopped where a signal has come."""
        if self.signal:
            name = signal.Signals(self.signal).name
            raise Stopped(f"stopped by {name} before the first step", "nothing was trained; start again")

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.signal = self.signal or number
        if self._at_once:
            self._at_once = False  # a second signal finds the first one's way out
            self.check()
