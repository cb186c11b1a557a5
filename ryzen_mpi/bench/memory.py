"""How much memory a measurement goes through: more than the caches hold, less than the machine can spare."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOST_BUFFERS = 64
"""Sets of memory at most. Below 1/64 of the cache messages stay in it, as a program's small messages do."""
CACHE_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN_CACHE = 64 << 20
SHARED_MEMORY = "/dev/shm"


def last_level_cache(folder: Path = CACHE_FOLDER) -> tuple[int, str]:
    """Bytes of the largest cache of a core, and how they are known. Local."""
    sizes = []
    for path in folder.glob("index*/size"):
        match = re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip())
        if match:
            sizes.append(int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]])
    return (max(sizes), "sysfs") if sizes else (UNKNOWN_CACHE, "assumed: sysfs tells nothing")


def rotation(footprint: int, cache: int, limit: int) -> int:
    """Sets of memory of `footprint` bytes each to cycle through; 0 where one alone is beyond `limit`. Local.

    Twice the cache, so that a set has left it before its turn comes again.
    """
    if footprint <= 0:
        return 1
    wanted = -(-2 * cache // footprint)
    return min(MOST_BUFFERS, max(1, wanted), limit // footprint)


def shared_memory_limit(ranks_on_node: int) -> int:
    """Bytes of shared memory a rank may take: half of what the node has free, divided. Local."""
    try:
        state = os.statvfs(SHARED_MEMORY)
    except OSError:  # no such file system: MPI keeps its segments elsewhere
        return 1 << 62
    return state.f_bavail * state.f_frsize // 2 // max(1, ranks_on_node)
