"""What the nodes are made of, and whether every rank runs and has its memory where it should."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ryzen_mpi.cluster.sensors import CPUINFO
from ryzen_mpi.cluster.topology import SYSFS, cpulist_text, parse_cpulist, read_topology
from ryzen_mpi.validation.probes import facts
from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

GB = 1e9
NUMA_BYTES = 64 << 20
WATCHED_S = 0.5


@check("hardware", "E1", "cores, hardware threads, memory and processor of every node", "nodes")
def hardware(context: Context) -> Findings:
    """Collective."""
    assert context.world is not None
    nodes = context.world.exchange.allgather([context.world.hostname, node_facts()])
    return judge_hardware([{"host": host} | found for host, found in nodes], context.phase.ranks_per_node)


def node_facts(root: Path = SYSFS, cpuinfo: Path = CPUINFO, cpus: set[int] | None = None) -> dict[str, Any]:
    """What this node has for its job, JSON-able. Local."""
    from ryzen_mpi.cluster.binding import launcher_cpus
    from ryzen_mpi.cluster.topology import read_memory

    usable = cpus or os.sched_getaffinity(0) | launcher_cpus()
    topology, memory = read_topology(usable, root), read_memory()
    lines = _read(cpuinfo).splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    present, online = (parse_cpulist(_read(root / "cpu" / name)) for name in ("present", "online"))
    return {
        "model": model,
        "cores": len(topology.cores),
        "threads_per_core": max(map(len, topology.cores)),
        "domains": {str(domain): len(cores) for domain, cores in topology.domains.items()},
        "topology": topology.reason,
        "memory_bytes": memory.total_bytes,
        "memory_reason": memory.reason,
        "offline": cpulist_text(present - online),
        "not_ours": cpulist_text(online - usable) if online else "",
    }


def judge_hardware(nodes: Sequence[Mapping[str, Any]], ranks_per_node: int) -> Findings:
    """Findings of all nodes' facts. Pure."""
    cores = [float(node["cores"]) for node in nodes]
    memory = [node["memory_bytes"] / GB for node in nodes]
    problems, evidence = [], []
    for what, unit in (("model", ""), ("cores", " cores"), ("threads_per_core", " threads a core")):
        kinds: dict[str, list[str]] = {}
        for node in nodes:
            kinds.setdefault(f"{node[what]}{unit}", []).append(node["host"])
        if len(kinds) > 1:
            told = "; ".join(f"{kind} on {', '.join(hosts)}" for kind, hosts in kinds.items())
            problems.append(f"the nodes are not alike: {told}")
    for node in nodes:
        domains = ", ".join(f"{count} in domain {domain}" for domain, count in node["domains"].items())
        evidence.append(
            f"{node['host']}: {node['model']}, {node['cores']} cores ({domains}; {node['topology']}), "
            f"{node['memory_bytes'] / GB:.1f} GB ({node['memory_reason']})"
        )
        if node["offline"]:
            evidence.append(f"{node['host']}: CPUs {node['offline']} are there and switched off")
        if node["not_ours"]:
            evidence.append(f"{node['host']}: CPUs {node['not_ours']} are not given to this job")
    return Findings(
        (
            facts.least("cores_per_node", cores, "1", "physical cores this job may use, of every node"),
            facts.least("cores_per_rank", [count // ranks_per_node for count in cores], "1",
                        f"{ranks_per_node} ranks a node"),
            facts.least("memory_per_node", memory, "GB", "10^9 bytes"),
            facts.least("memory_per_rank", [size / ranks_per_node for size in memory], "GB", "10^9 bytes"),
            facts.least("threads_per_core", [float(node["threads_per_core"]) for node in nodes], "1"),
        ),
        problems,
        evidence=evidence,
        details={"nodes": list(nodes)},
    )  # fmt: skip


@check("numa", "E1", "every rank's cores in one NUMA domain, and its memory there", "ranks")
def numa(context: Context) -> Findings:
    """Collective."""
    from ryzen_mpi.validation.probes.places import bytes_by_domain

    world = context.world
    assert world is not None
    place = facts.placed(context)
    where = bytes_by_domain(NUMA_BYTES)
    topology = read_topology(range(os.cpu_count() or 1))
    mine = {
        "rank": world.rank,
        "host": world.hostname,
        "cpus": list(place.mine.cpus),
        "of": sorted(topology.domain_of(place.mine.cpus)),
        "bytes": None if where is None else {str(domain): size for domain, size in where.items()},
        "domains": domain_table(),
    }
    return judge_numa(world.exchange.allgather(mine))


def domain_table(root: Path = SYSFS) -> dict[str, dict[str, Any]]:
    """NUMA domain -> its CPUs, memory and distances to all domains (10 is its own), from sysfs; JSON-able. Local."""
    found = {}
    for path in sorted((root / "node").glob("node[0-9]*")):
        memory = [line.split() for line in _read(path / "meminfo").splitlines() if "MemTotal:" in line]
        found[path.name[4:]] = {
            "cpus": _read(path / "cpulist").strip(),
            "memory_bytes": int(memory[0][-2]) * 1024 if memory else None,
            "distances": [int(word) for word in _read(path / "distance").split()],
        }
    return found


def judge_numa(ranks: Sequence[Mapping[str, Any]]) -> Findings:
    """Findings of all ranks' facts. Pure."""
    inside = [float(len(rank["of"]) == 1) for rank in ranks]
    evidence = [f"rank {rank['rank']} on {rank['host']}: cores {cpulist_text(rank['cpus'])} in domain(s) "
                f"{', '.join(map(str, rank['of']))}, memory in {rank['bytes']}" for rank in ranks]  # fmt: skip
    tables = {rank["host"]: rank["domains"] for rank in ranks}
    for host, table in tables.items():
        bare = [domain for domain, row in table.items() if row["cpus"] and row["memory_bytes"] == 0]
        if bare:
            evidence.append(f"{host}: domains {', '.join(bare)} have cores and no memory of their own")
    known = [rank for rank in ranks if rank["bytes"] and rank["of"]]
    local = [
        sum(size for domain, size in rank["bytes"].items() if int(domain) in rank["of"]) / sum(rank["bytes"].values())
        for rank in known
    ]
    if len(known) == len(ranks):
        memory = facts.least("local_memory", local, "1", f"of {NUMA_BYTES >> 20} MiB touched (/proc/self/numa_maps)")
    else:
        memory = not_measurable("local_memory", "1", "the kernel has no /proc/self/numa_maps")
    domains = [float(max(1, len(table))) for table in tables.values()]
    return Findings(
        (
            Measured("ranks_in_one_domain", sum(inside) / len(inside), "1", len(inside), samples=tuple(inside)),
            memory,
            facts.least("domains", domains, "1", "of a node (sysfs)"),
        ),
        evidence=evidence,
        details={"ranks": list(ranks)},
    )


@check("affinity", "E1", "every rank runs where it is bound, and no two on one core", "ranks")
def affinity(context: Context) -> Findings:
    """Collective."""
    from ryzen_mpi.cluster.binding import launcher_cpus
    from ryzen_mpi.validation.probes.places import running_on

    world = context.world
    assert world is not None
    free = os.sched_getaffinity(0) | launcher_cpus()
    place = facts.placed(context)
    world.exchange.allgather(None)  # all compute at the same time, as in training
    seen, allowed = running_on(WATCHED_S, place.mine.threads)
    mine = {
        "rank": world.rank,
        "host": world.hostname,
        "bound": list(place.mine.cpus),
        "allowed": sorted(allowed),
        "seen": {str(cpu): count for cpu, count in sorted(seen.items())},
        "free": sorted(free),
        "reason": place.mine.reason,
    }
    return judge_affinity(world.exchange.allgather(mine))


def judge_affinity(ranks: Sequence[Mapping[str, Any]], root: Path = SYSFS) -> Findings:
    """Findings of all ranks' facts; which CPUs are one core is read on this node. Local."""
    problems, shared, loose = [], [], []
    evidence = [f"rank {rank['rank']} on {rank['host']}: bound to {cpulist_text(rank['bound'])} ({rank['reason']}), "
                f"seen on {cpulist_text(map(int, rank['seen']))}" for rank in ranks]  # fmt: skip
    for rank in ranks:
        bound, who = set(rank["bound"]), f"rank {rank['rank']} on {rank['host']}"
        strayed = {int(cpu) for cpu in rank["seen"]} - bound
        loose.append(float(bool(strayed) or set(rank["allowed"]) != bound))
        if strayed:
            problems.append(f"{who} ran on CPU {cpulist_text(strayed)}, and is bound to {cpulist_text(bound)}")
        elif loose[-1]:
            problems.append(
                f"{who} may run on CPU {cpulist_text(rank['allowed'])}, and is bound to {cpulist_text(bound)}"
            )
    for host in dict.fromkeys(rank["host"] for rank in ranks):
        here = [rank for rank in ranks if rank["host"] == host]
        counts, idle = _cores_taken(here, root)
        shared += counts
        if max(counts) > 1 and idle:
            pairs = [f"{a['rank']} and {b['rank']}" for i, a in enumerate(here) for b in here[i + 1 :]
                     if set(a["allowed"]) & set(b["allowed"])]  # fmt: skip
            problems.append(f"ranks {', '.join(pairs)} on {host} share cores, and CPUs {cpulist_text(idle)} are idle")
    return Findings(
        (
            facts.most("ranks_per_core", shared, "1", "on every core that is used; above 1 they slow each other down"),
            facts.most("ranks_not_where_bound", loose, "1", "of every rank: 1 where the kernel lets it run elsewhere"),
        ),
        problems,
        evidence=evidence,
        details={"ranks": list(ranks)},
    )


def _cores_taken(ranks: Sequence[Mapping[str, Any]], root: Path) -> tuple[list[float], set[int]]:
    """(ranks on every core of a node that is used, CPUs of cores that none uses)."""
    everything = {cpu for rank in ranks for cpu in (*rank["free"], *rank["allowed"])}
    cores = read_topology(everything, root).cores
    taken = [sum(1 for rank in ranks if set(rank["allowed"]) & set(core)) for core in cores]
    idle = {cpu for core, count in zip(cores, taken, strict=True) for cpu in core if not count}
    return [float(count) for count in taken if count], idle


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
