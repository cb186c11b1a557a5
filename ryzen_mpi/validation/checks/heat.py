"""Temperature, clock, throttling and power of the nodes, at rest and with all cores at work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ryzen_mpi.cluster.sensors import CPUINFO, SYS
from ryzen_mpi.validation.probes import facts
from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

if TYPE_CHECKING:
    from ryzen_mpi.cluster.world import World

LOAD_S, REST_S = 6.0, 2.0


@check("thermal", "E1", "temperature, throttling and clock with all cores at work", "nodes", limit_s=60)
def thermal(context: Context) -> Findings:
    """Collective. `load_s`: how long all cores work."""
    assert context.world is not None
    seconds = facts.number(context, "load_s", LOAD_S)
    return judge_thermal(gathered(context.world, seconds), seconds)


@check("power", "E1", "power of the processors, at rest and with all cores at work", "nodes", limit_s=60)
def power(context: Context) -> Findings:
    """Collective. `load_s`: how long all cores work."""
    assert context.world is not None
    return judge_power(gathered(context.world, facts.number(context, "load_s", LOAD_S)))


def gathered(world: World, seconds: float, root: Path = SYS, cpuinfo: Path = CPUINFO) -> list[dict[str, Any]]:
    """What the sensors of all nodes said, the nodes being heated at the same time. Collective."""
    world.exchange.allgather(None)
    return world.exchange.allgather({"host": world.hostname} | heated(seconds, root, cpuinfo))


def heated(seconds: float, root: Path = SYS, cpuinfo: Path = CPUINFO) -> dict[str, Any]:
    """What the sensors of this node said at rest and under load, JSON-able. Local."""
    from ryzen_mpi.cluster.binding import launcher_cpus
    from ryzen_mpi.validation.probes.load import watch

    os.sched_setaffinity(0, os.sched_getaffinity(0) | launcher_cpus())  # one rank here, and all cores are to work
    import torch  # noqa: F401  before rest is measured: importing it is work

    rest, load = watch(REST_S, False, root, cpuinfo), watch(seconds, True, root, cpuinfo)
    last = load.looks[-1]
    return {
        "rest_c": rest.highest(),
        "load_c": load.highest(),
        "temperatures": last.temperatures.values,
        "no_temperature": last.temperatures.why,
        "throttled": load.throttled(),
        "no_throttle": last.throttles.why,
        "clock_mhz": load.clock_mhz(),
        "no_clock": last.clocks.why,
        "rest_w": rest.watts(root),
        "load_w": load.watts(root),
        "no_power": last.energies.why,
        "sustained": load.sustained(),
        "pieces": len(load.done),
        "cores": load.cores,
        "seconds": load.seconds,
    }


def judge_thermal(nodes: Sequence[Mapping[str, Any]], seconds: float) -> Findings:
    """Findings of all nodes' facts. Pure."""
    from statistics import median

    clocks = [node | {"clock": median(node["clock_mhz"]) if node["clock_mhz"] else None} for node in nodes]
    slowest = of_all(facts.least, "clock", "MHz", clocks, "clock", "no_clock", "median over the load")
    figures = (
        of_all(facts.most, "temperature_load", "°C", nodes, "load_c", "no_temperature", "the hottest sensor"),
        of_all(facts.most, "temperature_rest", "°C", nodes, "rest_c", "no_temperature", "the hottest sensor"),
        of_all(facts.most, "throttled", "1", nodes, "throttled", "no_throttle", "times a CPU slowed itself down"),
        slowest,
        of_all(facts.least, "sustained_rate", "1", nodes, "sustained", None, "work in the last third over the second"),
        facts.least("duration", [node["seconds"] for node in nodes], "s", "of the load"),
    )
    evidence = []
    for node in nodes:
        if node["temperatures"]:
            evidence.append(f"{node['host']}: {facts.told(node['temperatures'], '°C')}")
        if node["throttled"]:
            evidence.append(f"{node['host']}: {node['throttled']} throttle events in {seconds:g} s of load")
    return Findings(figures, evidence=evidence, details={"nodes": [dict(node) for node in nodes]})


def judge_power(nodes: Sequence[Mapping[str, Any]]) -> Findings:
    """Findings of all nodes' facts. Pure."""
    figures = (
        of_all(facts.most, "power_load", "W", nodes, "load_w", "no_power", "processor packages of a node"),
        of_all(facts.most, "power_rest", "W", nodes, "rest_w", "no_power", "processor packages of a node"),
    )
    evidence = [f"{node['host']}: {node['rest_w']:.1f} W at rest, {node['load_w']:.1f} W under load"
                for node in nodes if node["load_w"] is not None and node["rest_w"] is not None]  # fmt: skip
    problems = [
        f"{node['host']}: {node['load_w']:.1f} W with all cores at work: the counter does not follow the load"
        for node in nodes
        if node["load_w"] is not None and node["rest_w"] is not None and node["load_w"] <= 0
    ]
    return Findings(figures, problems, evidence=evidence, details={"nodes": [dict(node) for node in nodes]})


def of_all(kind: Any, name: str, unit: str, nodes: Sequence[Mapping[str, Any]], key: str, reason: str | None, why: str):
    """The figure over all nodes; not measurable where one of them does not tell. Pure."""
    silent = [node for node in nodes if node[key] is None]
    if silent:
        because = silent[0][reason] if reason else "too little work was done in the time"
        return not_measurable(name, unit, f"{silent[0]['host']}: {because}")
    figure: Measured = kind(name, [float(node[key]) for node in nodes], unit, why)
    return figure
