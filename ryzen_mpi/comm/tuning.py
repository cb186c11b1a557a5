"""Which way an ordinary tensor takes, by collective and size: MPI, or staged through the memory of the node.

The choice must be the same on all ranks, and the same in every run on a machine (the two ways add in different orders),
so it is measured once for a machine, MPI and number of ranks, and kept.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAGED, MPI_WAY = "staged", "mpi"
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all")
SIZES = tuple(4**power for power in range(3, 12))
"""Bytes a rank at which both ways are measured: 64 B to 4 MiB; a size in between takes the way of the next larger."""


CLEARLY = 0.85
"""MPI must be quicker by this much: what a busy moment decides should be the same way for all sizes."""
WAYS = {STAGED, MPI_WAY}


@dataclass(frozen=True)
class Table:
    """For every collective the largest size (bytes a rank) that is staged, as ascending (bytes, way) steps."""

    steps: dict[str, tuple[tuple[int, str], ...]]
    source: str

    def way(self, collective: str, size: int) -> str:
        """STAGED or MPI_WAY for a message of `size` bytes a rank. Local."""
        steps = self.steps[collective]
        for limit, way in steps:
            if size <= limit:
                return way
        return steps[-1][1]


DEFAULT = Table({name: ((SIZES[-1], STAGED),) for name in COLLECTIVES}, "not measured: everything is staged")


def machine_key(comm: Any) -> str:
    """Names what a table belongs to: processor, ranks of the node, MPI, kernel. Local."""
    from mpi4py import MPI

    from ryzen_mpi.comm.region import kernel_name

    cpu = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    facts = (cpu, os.cpu_count(), comm.size, MPI.Get_library_version(), kernel_name())
    return f"{zlib.crc32(repr(facts).encode()):08x}-{comm.size}"


def cache_path(comm: Any) -> Path:
    """Where the table of this machine is kept. Local."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):  # a user without a home
        base = os.path.join(tempfile.gettempdir(), f"ryzen_mpi-{os.getuid()}")
    return Path(base) / "ryzen_mpi" / f"ways-{machine_key(comm)}.json"


def load(path: Path) -> Table | None:
    """The table in a file, or None where there is none, or none that can be used. Local."""
    try:
        content = json.loads(path.read_text())
        steps = {name: tuple((int(size), str(way)) for size, way in content[name]) for name in COLLECTIVES}
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    sound = all(
        rows and [size for size, _ in rows] == sorted(size for size, _ in rows) and {way for _, way in rows} <= WAYS
        for rows in steps.values()
    )
    return Table(steps, f"measured before ({path})") if sound else None


def store(table: Table, path: Path) -> bool:
    """Keeps a table for the next run; whether that worked. Local."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(table.steps, indent=1) + "\n")
        aside.replace(path)
    except OSError:
        return False
    return True


def measure(run: Callable[[str, int, str], float]) -> Table:
    """The quicker way for every collective and size. Collective, as `run` is.

    `run(collective, size, way)` returns seconds, the same on all ranks.
    """
    steps = {}
    for name in COLLECTIVES:
        rows: list[tuple[int, str]] = []
        for size in SIZES:
            staged_s, mpi_s = (run(name, size, way) for way in (STAGED, MPI_WAY))
            way = MPI_WAY if mpi_s < CLEARLY * staged_s else STAGED
            if rows and rows[-1][1] == way:
                rows.pop()
            rows.append((size, way))
        steps[name] = tuple(rows)
    return Table(steps, "measured now")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
