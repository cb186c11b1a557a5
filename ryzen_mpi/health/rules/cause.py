"""Why a rank is slow, as far as the gauges tell: it against the others."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ryzen_mpi.health.rules.rule import listed
from ryzen_mpi.training.look import Look
from ryzen_mpi.units import bytes_text

FAULTS, SWAPPED_BYTES = 20.0, 64 << 20
"""Major faults a second, and bytes swapped out, from which on a disk is what a rank waits for."""
WAITING = 0.1
"""Share of the time a rank waits for a core, beyond that of the others."""
SLOW_CLOCK = 0.9
"""Of the others' clock."""
PRESSED = 0.2
"""Share of the time in which some task of the node waited (PSI), beyond that of the other nodes."""


def likely_cause(look: Look, rank: int) -> tuple[str, dict[str, float]]:
    """The cause as "word: what tells", and the gauges that tell. Pure. The word is swap, heat, clock, binding, another
    process, memory or unknown."""
    return next(_causes(Against(look, rank)))


class Against:
    """A rank's gauges beside those of the others."""

    def __init__(self, look: Look, rank: int) -> None:
        self.look, self.rank = look, rank
        self.neighbours = [
            other
            for other in range(look.ranks)
            if other != rank and len(look.hosts) == look.ranks and look.hosts[other] == look.hosts[rank]
        ]

    def own(self, name: str) -> float:
        """The rank's gauge; NaN where it cannot tell."""
        values = self.look.gauges.get(name)
        return float(values[self.rank]) if values is not None else float("nan")

    def of(self, name: str, rank: int) -> float:
        values = self.look.gauges.get(name)
        return float(values[rank]) if values is not None else float("nan")

    def usual(self, name: str) -> float:
        """The median of the others'; NaN where none can tell."""
        values = self.look.gauges.get(name)
        others = np.delete(values, self.rank) if values is not None else np.array([])
        others = others[np.isfinite(others)]
        return float(np.median(others)) if len(others) else float("nan")


def _causes(it: Against) -> Iterator[tuple[str, dict[str, float]]]:
    """Those that hold, the surest first; the last always does."""
    faults, swapped = it.own("major_faults"), it.own("swap_bytes")
    if faults > FAULTS or swapped > SWAPPED_BYTES + _known(it.usual("swap_bytes")):
        text = f"swap: {bytes_text(_known(swapped))} of it swapped out, {_known(faults):.0f} pages a second read back"
        yield text, {"swap_bytes": swapped, "major_faults": faults}
    clock, usual = it.own("clock_hz"), it.usual("clock_hz")
    if clock < SLOW_CLOCK * usual:
        hot = it.own("throttles") > 0
        word = "heat: its processor throttles," if hot else "clock:"
        yield f"{word} {clock / 1e9:.2f} GHz where others have {usual / 1e9:.2f}", {"clock_hz": clock}
    yield from _for_a_core(it)
    pressed = it.own("memory_pressure")
    if pressed > PRESSED + _known(it.usual("memory_pressure")):
        yield (
            f"memory: tasks of its node waited for memory {100 * pressed:.0f} % of the time",
            {"memory_pressure": pressed},
        )
    yield "unknown: not swap, clock or cores; memory bandwidth or its share of the work are left", {}


def _for_a_core(it: Against) -> Iterator[tuple[str, dict[str, float]]]:
    """It waits for a core: one it shares with ranks, or one that another process uses."""
    waits, usual = it.own("runqueue_share"), _known(it.usual("runqueue_share"))
    pressed = it.own("cpu_pressure")
    figures = {"runqueue_share": waits, "cpu_pressure": pressed, "preemptions": it.own("preemptions")}
    if waits > WAITING:
        sharing = [other for other in it.neighbours if it.of("runqueue_share", other) > WAITING]
        if sharing:
            shared = f"cores it shares with {listed(sharing)}"
            yield f"binding: it waits {100 * waits:.0f} % of the time for {shared}", figures
        if waits > WAITING + usual:
            yield f"another process: it waits {100 * waits:.0f} % of the time for a core no rank shares", figures
    if pressed > PRESSED + _known(it.usual("cpu_pressure")):
        yield f"another process: tasks of its node waited for a core {100 * pressed:.0f} % of the time", figures


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0
