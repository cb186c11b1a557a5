"""What a rank has of the node: its share of every cache, and the clock of its cores. From sysfs; local."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ryzen_mpi.cluster.topology import SYSFS, parse_cpulist

Cache = tuple[str, frozenset[int], int]
"""Level, the CPUs it serves, bytes."""


def caches_of(cpu: int, root: Path = SYSFS) -> set[Cache]:
    """The data and unified caches of a logical CPU; empty where sysfs does not tell. Local."""
    found = set()
    for folder in (root / f"cpu/cpu{cpu}/cache").glob("index*"):
        try:
            size = re.fullmatch(r"(\d+)([KMG]?)", (folder / "size").read_text().strip())
            if size is None or (folder / "type").read_text().strip() == "Instruction":
                continue
            served = frozenset(parse_cpulist((folder / "shared_cpu_list").read_text()))
            level = (folder / "level").read_text().strip()
        except (OSError, ValueError):
            continue
        found.add((level, served, int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]]))
    return found


def cache_share(mine: Iterable[int], everyone: Sequence[Iterable[int]], root: Path = SYSFS) -> dict[str, int]:
    """Bytes of each level of cache for the rank on the CPUs `mine`. Local.

    `everyone`: the CPUs of all ranks of the node, this one's too: a cache that several use is divided among them.
    """
    sets = [set(cpus) for cpus in everyone]
    shares: dict[str, int] = {}
    for level, served, size in set().union(*(caches_of(cpu, root) for cpu in mine)):
        shares[level] = shares.get(level, 0) + size // max(1, sum(1 for cpus in sets if served & cpus))
    return shares


def clock_mhz(cpus: Iterable[int], root: Path = SYSFS) -> float | None:
    """Mean clock of the CPUs now, in MHz; None where the kernel does not tell it of a single one. Local.

    /proc/cpuinfo is not asked: under a hypervisor it shows the nominal clock whatever the cores do.
    """
    read = []
    for cpu in cpus:
        try:
            read.append(int((root / f"cpu/cpu{cpu}/cpufreq/scaling_cur_freq").read_text()) / 1e3)
        except (OSError, ValueError):
            return None
    return sum(read) / len(read) if read else None
