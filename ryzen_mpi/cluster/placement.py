"""Every rank on its cores: the plan of all ranks of a node, carried out, and what the kernel made of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ryzen_mpi.cluster import binding
from ryzen_mpi.cluster.topology import Topology, cpulist_text, read_topology
from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings


@dataclass(frozen=True)
class Placement:
    """Where every rank runs: this rank's binding, the NUMA domains this node's ranks run on, and one line a rank for
    the table."""

    mine: binding.Binding
    domains: int
    rows: list[tuple[str, ...]]
    warnings: list[str]


def bind_ranks(world: World, settings: Settings) -> Placement:
    """Places this rank on its cores and tells where all are. Collective; before torch is imported."""
    mask = sorted(os.sched_getaffinity(0))
    everyone = world.exchange.allgather([world.node, world.local_rank, mask])
    masks = [m for node, _, m in sorted(everyone) if node == world.node]
    topology = read_topology({cpu for m in masks for cpu in m} | binding.launcher_cpus())
    bindings = binding.plan(masks, topology, settings.hardware.bind)
    mine = bindings[world.local_rank]
    binding.apply(mine)
    running = sorted(os.sched_getaffinity(0))  # what the kernel did, not what was asked
    threads = settings.hardware.num_threads or mine.threads
    row = _placement_row(world, topology, mine, running, threads)
    warnings = binding.warnings(bindings, topology) if world.local_rank == 0 else []
    if running != list(mine.cpus):
        warnings.append(f"rank {world.rank} runs on cores {cpulist_text(running)}, not on {cpulist_text(mine.cpus)}")
    if threads > mine.threads:
        warnings.append(f"rank {world.rank} computes with {threads} threads on {mine.threads} cores")
    told = world.exchange.allgather([row, [f"{world.hostname}: {text}" for text in warnings]])
    domains = len({b.domain for b in bindings})
    return Placement(mine, domains, [tuple(r) for r, _ in told], [text for _, texts in told for text in texts])


def _placement_row(
    world: World, topology: Topology, mine: binding.Binding, running: list[int], threads: int
) -> tuple[str, ...]:
    domain = "several" if mine.domain is None else str(mine.domain)
    domains = f"{domain} of {len(topology.domains)} ({topology.reason})"
    cores = cpulist_text(running) + (" (shared)" if mine.shared else "")
    return str(world.rank), f"{world.node} {world.hostname}", cores, domains, str(threads), mine.reason
