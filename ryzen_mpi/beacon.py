"""What a rank lets its guard see: how far it is, in memory they share.

A rank writes a few numbers at every step; its guard (`supervisor/guard.py`), a process beside it, reads them whenever
it wants to. Nothing waits, nothing is sent, and a rank that hangs with the interpreter's lock held is seen not to move.
Without a guard the memory is the rank's own and nobody reads it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE, EPOCH_VARIABLE, LAUNCHER_VARIABLE = "RYZEN_MPI_BEACON", "RYZEN_MPI_EPOCH", "RYZEN_MPI_LAUNCHER"
"""Environment of a guarded rank: descriptor of the shared memory, number of its attempt, process that started it."""
SIZE = 4096

PHASES = ("start", "connect", "data", "restore", "train", "evaluate", "save", "leave")
"""What a rank is doing: importing and binding; meeting the others; preparing data; loading; and so on."""
ENDS = ("complete", "stopped", "lost", "refused", "failed")
"""How a rank says it ends: all done; saved and left when asked; another rank is gone; a UserError; an own bug."""

_NAMES = PHASES + ENDS
_NUMBERS = struct.Struct("<QqqqdBxH")
_BEATS, _RESUMED, _STEP, _SAVED, _TRAINED, _PHASE, _LENGTH = range(7)


@dataclass(frozen=True)
class Reading:
    """What a rank said last.

    Attributes:
        beats: a counter that moves with everything the rank does.
        resumed: step it began at; -1 before the run's progress is known.
        step: last finished step; -1 before the run's progress is known.
        saved: last step this rank knows to be on disk (rank 0's is the truth); -1 where none.
        trained_s: seconds it has spent in steps since it started.
        phase: one of PHASES or ENDS.
        text: what it said with it.
    """

    beats: int = 0
    resumed: int = -1
    step: int = -1
    saved: int = -1
    trained_s: float = 0.0
    phase: str = "start"
    text: str = ""


class Beacon:
    """The rank's end. Local; used from one thread."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._values: list = [0, -1, -1, -1, 0.0, 0, 0]

    def beat(
        self,
        phase: str | None = None,
        *,
        step: int | None = None,
        saved: int | None = None,
        trained_s: float | None = None,
    ) -> None:
        """Says that this rank moves, and what is new; the rest stays. An end that was told is not taken back."""
        values = self._values
        if values[_PHASE] >= len(PHASES):
            return
        values[_BEATS] += 1
        for place, value in ((_STEP, step), (_SAVED, saved), (_TRAINED, trained_s)):
            if value is not None:
                values[place] = value
        if step is not None and values[_RESUMED] < 0:
            values[_RESUMED] = step
        if phase is not None:
            values[_PHASE] = _NAMES.index(phase)
        _NUMBERS.pack_into(self._memory, 0, *values)

    def tell(self, end: str, text: str = "") -> None:
        """Says how this rank ends (one of ENDS), and why. The first one counts."""
        if self._values[_PHASE] >= len(PHASES):
            return
        said = text.encode()[: SIZE - _NUMBERS.size]
        self._memory[_NUMBERS.size : _NUMBERS.size + len(said)] = said
        self._values[_LENGTH] = len(said)
        self.beat(end)

    def reading(self) -> Reading:
        """What has been said last."""
        return read_beacon(self._memory)


def open_beacon(environment: Mapping[str, str] = os.environ) -> Beacon:
    """The beacon of this process: the one its guard gave it, else one that nobody sees. Once a process."""
    descriptor = environment.get(VARIABLE, "")
    if descriptor.isdigit():
        try:
            return Beacon(mmap.mmap(int(descriptor), SIZE))
        except (OSError, ValueError):  # inherited by name only, through a program that closed it
            pass
    return Beacon(mmap.mmap(-1, SIZE))


def epoch(environment: Mapping[str, str] = os.environ) -> int | None:
    """The number of the supervisor's attempt this process belongs to, or None where nobody supervises."""
    value = environment.get(EPOCH_VARIABLE, "")
    return int(value) if value.isdigit() else None


def launcher_pid(environment: Mapping[str, str] = os.environ) -> int:
    """The process that started this rank: its parent, or that of its guard."""
    value = environment.get(LAUNCHER_VARIABLE, "")
    return int(value) if value.isdigit() else os.getppid()


def read_beacon(memory: mmap.mmap) -> Reading:
    """The guard's end. A number caught half-written is read right the next time."""
    beats, resumed, step, saved, trained_s, phase, length = _NUMBERS.unpack_from(memory, 0)
    if not beats:  # all zeros: nothing was said yet, not that step 0 is done
        return Reading()
    text = memory[_NUMBERS.size : _NUMBERS.size + length].decode(errors="replace")
    return Reading(beats, resumed, step, saved, trained_s, _NAMES[min(phase, len(_NAMES) - 1)], text)
