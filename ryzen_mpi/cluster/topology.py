"""What a node is made of: cores and NUMA domains, from sysfs, each with its reason.

MPI is not asked: hwloc can be told any topology, sysfs is what the kernel schedules by. `root` lets tests plant a tree.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/devices/system")
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


def read_memory(cgroup_root: Path = Path("/sys/fs/cgroup")) -> Memory:
    """The node's memory, or the cgroup's where that is less. Local."""
    import psutil

    machine = psutil.virtual_memory()
    limits = []
    for path in _cgroup_limit_files(cgroup_root):
        try:
            limits.append((int(path.read_text()), path))
        except (OSError, ValueError):  # "max" is no limit
            continue
    if limits and (limit := min(limits))[0] < machine.total:
        return Memory(limit[0], min(limit[0], machine.available), f"cgroup limit {limit[1]}")
    return Memory(machine.total, machine.available, "MemTotal")


def _cgroup_limit_files(root: Path) -> list[Path]:
    """The limit files of this process' cgroup and all above it, version 1 and 2."""
    files = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        if controllers and "memory" not in controllers.split(","):
            continue
        parts = Path(path.lstrip("/")).parts
        files += [base.joinpath(*parts[:depth], name) for depth in range(len(parts) + 1)]
    return files
