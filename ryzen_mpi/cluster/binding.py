"""Which cores each rank of a node runs on: a pure plan, then the act.

What the launcher bound stays bound. Where it did not bind, or bound several ranks to the same set (`--map-by numa
--bind-to numa`), the set is divided: every rank gets cores of one NUMA domain, all ranks the same number.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ryzen_mpi.cluster.topology import Topology


@dataclass(frozen=True)
class Binding:
    """One rank's place.

    Attributes:
        cpus: logical CPUs the rank runs on.
        domain: its NUMA domain, or None where it spans several.
        threads: threads the rank should compute with (its physical cores).
        shared: other ranks of the node use the same cores.
        reason: who decided.
    """

    cpus: tuple[int, ...]
    domain: int | None
    threads: int
    shared: bool
    reason: str


def plan(masks: Sequence[Sequence[int]], topology: Topology, bind: str = "auto") -> list[Binding]:
    """The binding of every rank of a node, in order of local rank. Pure.

    Args:
        masks: the affinity each local rank was started with (logical CPUs).
        topology: of all CPUs in any mask.
        bind: `auto`, or `none` to leave every rank as it was started.
    """
    groups: dict[frozenset[int], list[int]] = {}
    for local_rank, mask in enumerate(masks):
        groups.setdefault(frozenset(mask), []).append(local_rank)
    chosen: dict[int, tuple[list[int], str]] = {}
    for mask, ranks in groups.items():
        cores = [i for i, core in enumerate(topology.cores) if mask & set(core)]
        bound = len(cores) < len(topology.cores) or len(topology.cores) == 1
        if bind == "none":
            parts, reason = [cores] * len(ranks), "as started (hardware.bind=none)"
        elif bound and len(ranks) == 1:
            parts, reason = [cores], "launcher"
        else:
            parts = _divide(cores, topology, len(ranks))
            reason = "launcher's set, divided" if bound else "ryzen_mpi: the launcher did not bind"
        for rank, part in zip(ranks, parts, strict=True):
            chosen[rank] = (part, reason)
    return [_binding(rank, chosen, masks[rank], topology) for rank in range(len(masks))]


def _divide(cores: list[int], topology: Topology, ranks: int) -> list[list[int]]:
    """`cores` divided among `ranks`: blocks of ranks to NUMA domains, equal shares, the largest there can be."""
    if ranks > len(cores):
        return [[cores[rank * len(cores) // ranks]] for rank in range(ranks)]
    domains = [[c for c in members if c in set(cores)] for members in topology.domains.values()]
    share = max(s for s in range(1, len(cores) + 1) if sum(len(members) // s for members in domains) >= ranks)
    room = [len(members) // share for members in domains]
    taken = [0] * len(domains)
    for _ in range(ranks):  # to the emptiest domain that has room: every domain has a memory channel to use
        taken[min((d for d in range(len(domains)) if taken[d] < room[d]), key=taken.__getitem__)] += 1
    return [
        members[index * share : (index + 1) * share]
        for members, ranks_here in zip(domains, taken, strict=True)
        for index in range(ranks_here)
    ]


def _binding(rank: int, chosen: dict[int, tuple[list[int], str]], mask: Sequence[int], topology: Topology) -> Binding:
    cores, reason = chosen[rank]
    cpus = tuple(sorted(set(mask) & {cpu for core in cores for cpu in topology.cores[core]}))
    domains = topology.domain_of(cpus)
    shared = any(set(cores) & set(other) for r, (other, _) in chosen.items() if r != rank)
    return Binding(cpus, domains.pop() if len(domains) == 1 else None, max(1, len(cores)), shared, reason)


def launcher_cpus() -> set[int]:
    """The CPUs that what started this process may use: all of the job's, where the launcher bound us to less. Local."""
    if "OMPI_COMM_WORLD_RANK" not in os.environ:  # another parent (srun's step, a shell) may be wider than the job
        return set()
    try:
        return os.sched_getaffinity(os.getppid())
    except OSError:
        return set()


def apply(binding: Binding) -> None:
    """Moves this process, with the threads it already has, to `binding.cpus`. Local."""
    for task in Path("/proc/self/task").iterdir():  # MPI and BLAS started threads before us
        try:
            os.sched_setaffinity(int(task.name), binding.cpus)
        except ProcessLookupError:
            continue


def warnings(bindings: Sequence[Binding], topology: Topology) -> list[str]:
    """What a person should know about the plan of one node, most important first. Pure."""
    found = []
    if any(b.shared for b in bindings):
        found.append(
            f"{len(bindings)} ranks share {len(topology.cores)} cores: they slow each other down; "
            f"figures of this run say nothing about scaling"
        )
    spanning = [rank for rank, b in enumerate(bindings) if b.domain is None]
    if spanning:
        found.append(f"local ranks {spanning} span several NUMA domains: start with --map-by numa")
    used = {cpu for b in bindings for cpu in b.cpus}
    idle = sum(1 for core in topology.cores if not used & set(core))
    if idle:
        found.append(
            f"{idle} of {len(topology.cores)} cores are idle: start more ranks a node, or give mpirun "
            f"--bind-to none so that ryzen_mpi divides all cores"
        )
    return found
