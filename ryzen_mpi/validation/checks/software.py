"""The libraries the ranks run on: which they are, that their sums are right, and how long these take."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ryzen_mpi.validation.probes import facts
from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

MAPS = Path("/proc/self/maps")
OWN_WORDS = ("OMPI_MCA_PREFIXES", "OMPI_MCA_initial_wdir", "OMPI_MCA_num_procs", "OMPI_MCA_cpu_type")
"""What Open MPI's launcher tells its ranks of itself: nobody set them."""
PREFIXES = ("OMPI_MCA_", "PRTE_MCA_", "PMIX_MCA_", "UCX_", "GLOO_", "OMP_NUM_THREADS", "OMPI_UNIVERSE_SIZE")
SMALL_BYTES = 8
SIZES = (SMALL_BYTES, 4 << 10, 1 << 20, 16 << 20)
DATATYPES = ("float", "double", "long")


@check("openmpi", "E2", "version and library, exact all-reduce, latency, environment", "ranks", least_ranks=2)
def openmpi(context: Context) -> Findings:
    """Collective."""
    world = context.world
    assert world is not None
    facts.placed(context)
    from mpi4py import MPI

    universe = MPI.COMM_WORLD.Get_attr(MPI.UNIVERSE_SIZE)
    mine = {
        "rank": world.rank,
        "host": world.hostname,
        "version": MPI.Get_library_version().strip("\x00 \n"),
        "libraries": loaded("libmpi"),
        "universe": universe,
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(PREFIXES) and name not in OWN_WORDS
        },
    }
    ranks = world.exchange.allgather(mine)
    figures, problems, evidence = judge_openmpi(ranks, world.launcher)
    sums = all_reduce(context, "raw")
    details = {"ranks": ranks} | sums.details
    return Findings((*figures, *sums.figures), [*problems, *sums.problems], (), [*evidence, *sums.evidence], details)


def judge_openmpi(ranks: Sequence[Mapping[str, Any]], launcher: str) -> tuple[list[Measured], list[str], list[str]]:
    """(figures, problems, evidence) of all ranks' facts. Pure."""
    from importlib.metadata import PackageNotFoundError, version

    problems = differing("Open MPI", {f"rank {rank['rank']}": rank["version"].partition(",")[0] for rank in ranks})
    several = [rank for rank in ranks if len(rank["libraries"]) > 1]
    for rank in several[:1]:
        problems.append(f"rank {rank['rank']} has several MPI libraries in one process: {', '.join(rank['libraries'])}")
    numbers = [version_number(rank["version"]) if rank["version"].startswith("Open MPI") else None for rank in ranks]
    if None in numbers:
        figure = not_measurable("version", "1", f"this is not Open MPI: {ranks[0]['version'][:60]}")
    else:
        figure = facts.least("version", [float(number) for number in numbers if number is not None], "1",
                             "major + minor / 100")  # fmt: skip
    universe = ranks[0]["universe"]
    slots = (
        not_measurable("universe_size", "1", "the launcher does not tell (OMPI_UNIVERSE_SIZE)")
        if universe is None
        else Measured("universe_size", float(universe), "1", why=f"slots; {len(ranks)} ranks run")
    )
    try:
        binding = version("mpi4py")
    except PackageNotFoundError:
        binding = "unknown"
    evidence = [
        f"rank 0: {ranks[0]['version'].partition(',')[0]}, library {', '.join(ranks[0]['libraries']) or 'unknown'}, "
        f"mpi4py {binding}, started by {launcher}",
        f"rank 0: {' '.join(f'{name}={value}' for name, value in ranks[0]['environment'].items())}",
    ]
    return [figure, slots], problems, evidence


@check("gloo", "E2", "exact all-reduce, latency, sockets and the interface they use", "ranks", least_ranks=2)
def gloo(context: Context) -> Findings:
    """Collective."""
    world = context.world
    assert world is not None
    facts.placed(context)
    import torch.distributed as dist

    if not dist.is_gloo_available():
        return Findings((Measured("available", 0.0, "1", why="this PyTorch is built without Gloo"),))
    facts.same_network(context)
    sums = all_reduce(context, "gloo")
    figures = (Measured("available", 1.0, "1", why="part of this PyTorch"), *sums.figures)
    interface, sockets, problems = sums.details["interface"], sums.details["sockets"], list(sums.problems)
    for rank, told in enumerate(sockets):
        if interface[rank]["address"] not in told["by_address"]:
            problems.append(
                f"rank {rank} has no connection from {interface[rank]['name']} ({interface[rank]['address']}), where "
                f"Gloo was told to go: {told['by_address'] or 'none at all'}"
            )
    evidence = [
        f"interface {interface[0]['name']} ({interface[0]['reason']})",
        f"connections of rank 0 by its own address: {sockets[0]['by_address']}",
        *sums.evidence,
    ]
    return Findings(figures, problems, evidence=evidence, details=sums.details)


def all_reduce(context: Context, side: str) -> Findings:
    """Sums of all ranks over one side of the benchmarks: right in every element, and how long small ones take.

    Collective.
    """
    from ryzen_mpi.validation.probes import calls

    world = context.world
    assert world is not None
    wrong, timed, details = calls.all_reduce(world, side, SIZES, DATATYPES, SMALL_BYTES)
    problems = [f"all-reduce over {side}: {count} of {total} elements are wrong ({what})"
                for what, (count, total) in wrong.items() if count]  # fmt: skip
    exact = facts.share(
        "allreduce_wrong", *map(sum, zip(*wrong.values(), strict=True)), f"elements, {', '.join(wrong)}"
    )
    figures = facts.call_figures(
        "allreduce", timed.slowest_ns() / 1e3, timed.rounds, f"{SMALL_BYTES} bytes, slowest rank"
    )
    evidence = facts.disturbance(f"all-reduce of {SMALL_BYTES} bytes over {side}", timed)
    return Findings((*figures, exact), problems, evidence=evidence, details=details)


@check("pytorch", "E3", "version, backends and threads", "nodes")
def pytorch(context: Context) -> Findings:
    """Collective."""
    world = context.world
    assert world is not None
    ranks = world.exchange.allgather({"host": world.hostname} | torch_facts())
    return judge_pytorch(ranks)


def torch_facts() -> dict[str, Any]:
    """What PyTorch says of itself on this node, JSON-able. Local."""
    from ryzen_mpi.cluster.binding import launcher_cpus
    from ryzen_mpi.cluster.topology import read_topology

    # as training does before PyTorch is imported, which counts then
    os.sched_setaffinity(0, os.sched_getaffinity(0) | launcher_cpus())
    import torch
    import torch.distributed as dist

    backends = {
        "gloo": dist.is_gloo_available(),
        "mpi": dist.is_mpi_available(),
        "ucc": dist.is_ucc_available(),
        "nccl": dist.is_nccl_available(),
        "ryzen": hasattr(dist.Backend, "RYZEN"),
    }
    return {
        "version": torch.__version__,
        "backends": backends,
        "threads": torch.get_num_threads(),
        "cores": len(read_topology().cores),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def judge_pytorch(nodes: Sequence[Mapping[str, Any]]) -> Findings:
    """Findings of all nodes' facts. Pure."""
    problems = differing("PyTorch", {node["host"]: node["version"] for node in nodes})
    problems += differing("vector instructions", {node["host"]: node["capability"] for node in nodes})

    def has(name: str, *backends: str) -> Measured:
        values = [float(any(node["backends"][each] for each in backends)) for node in nodes]
        return facts.least(name, values, "1", f"1: {' or '.join(backends)} is there")

    versions = [version_number(node["version"]) for node in nodes]
    known = [number for number in versions if number is not None]
    evidence = []
    for node in nodes:
        there = ", ".join(name for name, is_there in node["backends"].items() if is_there)
        absent = ", ".join(name for name, is_there in node["backends"].items() if not is_there)
        evidence.append(
            f"{node['host']}: torch {node['version']} ({node['capability']}), backends {there}; without {absent}; "
            f"{node['threads']} threads on {node['cores']} cores"
        )
    return Findings(
        (
            facts.least("version", known, "1", "major + minor / 100") if len(known) == len(nodes)
            else not_measurable("version", "1", f"{nodes[0]['version']!r} is no version"),
            has("gloo", "gloo"),
            has("mpi", "mpi", "ryzen"),
            has("ucc", "ucc"),
            has("ryzen", "ryzen"),
            facts.least("cores_visible", [float(node["cores"]) for node in nodes], "1", "physical cores of a node"),
            facts.least("threads_share", [node["threads"] / node["cores"] for node in nodes], "1",
                        "threads PyTorch computes with by itself over the cores it may use"),
        ),
        problems,
        evidence=evidence,
        details={"nodes": [dict(node) for node in nodes]},
    )  # fmt: skip


def version_number(text: str) -> float | None:
    """Of "Open MPI v4.1.6, ..." 4.01, of "2.13.0+cpu" 2.13, which is above 2.2; None where there is none. Pure."""
    match = re.search(r"(\d+)\.(\d+)", text)
    return int(match[1]) + int(match[2]) / 100 if match else None


def differing(what: str, values: Mapping[str, str]) -> list[str]:
    """A problem where not all have the same. Pure."""
    kinds = Counter(values.values())
    if len(kinds) < 2:
        return []
    told = "; ".join(f"{kind} on {', '.join(who for who, value in values.items() if value == kind)}" for kind in kinds)
    return [f"{what} is not the same everywhere: {told}"]


def loaded(name: str, maps: Path = MAPS) -> list[str]:
    """Files of this process whose name begins with NAME.so, each once. Local."""
    try:
        paths = {
            line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if len(line.split(maxsplit=5)) == 6
        }
    except OSError:
        return []
    return sorted(path for path in paths if Path(path).name.startswith(f"{name}.so"))
