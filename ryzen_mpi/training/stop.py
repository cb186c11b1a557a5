"""Being asked to stop: a signal sets a number, the step boundary asks for it."""

from __future__ import annotations

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; mpirun's and Slurm's request to end; Slurm's warning before the time limit."""


class StopRequest:
    """Remembers the first stop signal this process was sent, for as long as the block lasts. Local.

    A launcher may send several (mpirun turns Ctrl-C into SIGTERM): the later ones change nothing.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.signal = self.signal or number
