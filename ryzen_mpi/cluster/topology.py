"""What a node is made of: cores and NUMA domains, from sysfs, each with its reason.

MPI is not asked: hwloc can be told any topology, sysfs is what the kernel schedules by. `root` lets tests plant a tree.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ryzen_mpi.cluster.kernel import PROC, size_of, text

SYSFS, CGROUPS = Path("/sys/devices/system"), Path("/sys/fs/cgroup")
_GROUP_FILES = (
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
"""Limit, use, and what the counts of all groups below begin with, in versions 2 and 1 of control groups."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Topology:
    """The cores of a node that this job may use.

    Attributes:
        cores: physical cores, each the tuple of its logical CPUs (hardware threads).
        domains: NUMA domain -> indices into `cores`.
        reason: where the domains were read from.
    """

    cores: tuple[tuple[int, ...], ...]
    domains: dict[int, tuple[int, ...]]
    reason: str

    def domain_of(self, cpus: Iterable[int]) -> set[int]:
        """NUMA domains that the logical CPUs `cpus` belong to."""
        wanted = set(cpus)
        return {d for d, cores in self.domains.items() for c in cores if wanted & set(self.cores[c])}


def parse_cpulist(text: str) -> set[int]:
    """The kernel's list format: '0-3,8' -> {0, 1, 2, 3, 8}."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def cpulist_text(cpus: Iterable[int]) -> str:
    """The inverse of `parse_cpulist`: {0, 1, 2, 8} -> '0-2,8'."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def read_topology(allowed: Iterable[int] | None = None, root: Path = SYSFS) -> Topology:
    """The node's topology restricted to the logical CPUs `allowed` (default: this process' affinity). Local."""
    usable = set(os.sched_getaffinity(0) if allowed is None else allowed)
    cores = sorted({tuple(sorted(_siblings(cpu, root) & usable)) for cpu in usable})
    by_node = _numa_nodes(root)
    domains: dict[int, tuple[int, ...]] = {}
    for node, cpus in sorted(by_node.items()):
        members = tuple(i for i, core in enumerate(cores) if set(core) & cpus)
        if members:
            domains[node] = members
    if sum(map(len, domains.values())) == len(cores):
        return Topology(tuple(cores), domains, "sysfs")
    return Topology(tuple(cores), {0: tuple(range(len(cores)))}, "sysfs tells no NUMA domains: taken as one")


def _siblings(cpu: int, root: Path) -> set[int]:
    try:
        return parse_cpulist((root / f"cpu/cpu{cpu}/topology/thread_siblings_list").read_text()) | {cpu}
    except (OSError, ValueError):
        return {cpu}


def _numa_nodes(root: Path) -> dict[int, set[int]]:
    nodes = {}
    for path in (root / "node").glob("node[0-9]*"):
        try:
            nodes[int(path.name[4:])] = parse_cpulist((path / "cpulist").read_text())
        except (OSError, ValueError):
            continue
    return nodes


@dataclass(frozen=True)
class Memory:
    """Memory of a node that this job may use, in bytes, and what limits it."""

    total_bytes: int
    available_bytes: int
    reason: str


def machine_id() -> str:
    """The same for all nodes that are only names and share one kernel, and so its cores: namespaces, containers. Local.

    Where the kernel tells nothing, the node's name. Virtual machines look like machines.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()


def read_memory(cgroup_root: Path = CGROUPS, proc: Path = PROC) -> Memory:
    """The node's memory, or the cgroup's where that is less: who is at its limit is killed on an empty node. Local."""
    total, available = (size_of(key, proc / "meminfo") for key in ("MemTotal", "MemAvailable"))
    reason = "MemTotal"
    for limit, spare, path in _limits(own_groups("memory", cgroup_root, proc), total):
        available = min(available, spare)
        if limit < total:
            total, reason = limit, f"cgroup limit {path}"
    return Memory(total, available, reason)


def domain_memory(domain: int, root: Path = SYSFS) -> tuple[int, int]:
    """Bytes of a NUMA domain that are in use, the page cache's among them, and that are free. Raises OSError."""
    path = root / f"node/node{domain}/meminfo"
    free = size_of("MemFree", path)
    return size_of("MemTotal", path) - free, free


def own_groups(controller: str, root: Path = CGROUPS, proc: Path = PROC) -> list[Path]:
    """Folders of this process' cgroup and of all above it, top first: version 2's, and version 1's of `controller`."""
    folders = []
    for line in _lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else next(filter(Path.is_dir, [root / "unified"]), root)
        parts = Path(path.lstrip("/")).parts
        folders += [base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return folders


def _limits(groups: Iterable[Path], below: int) -> Iterator[tuple[int, int, Path]]:
    """(limit, bytes left, file of the limit) of the groups that have one under `below` bytes."""
    for group in groups:
        for name, used, hierarchy in _GROUP_FILES:
            try:
                limit = int(text(group / name))
            except (OSError, ValueError):  # of the other version; "max" is no limit
                continue
            if limit < below:
                yield limit, max(0, limit - _used(group, used, hierarchy)), group / name


def _used(group: Path, used: str, hierarchy: str) -> int:
    """Bytes a group has for good; 0 where it isn't told.

    Not for good are files in memory: the kernel takes them back before it kills, as it does in MemAvailable.
    """
    try:
        counts = dict(line.split() for line in _lines(group / "memory.stat"))
        cached = sum(int(counts.get(f"{hierarchy}{kind}_file", 0)) for kind in ("active", "inactive"))
        return max(0, int(text(group / used)) - cached)
    except (OSError, ValueError):
        return 0


def _lines(path: Path) -> list[str]:
    try:
        return text(path).splitlines()
    except OSError:
        return []
