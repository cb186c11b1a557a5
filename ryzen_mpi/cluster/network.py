"""Which network interface the ranks talk over: chosen from facts, and shown with the reason."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ryzen_mpi.errors import UserError


@dataclass(frozen=True)
class Interface:
    """One rank's end of the network all ranks share."""

    name: str
    address: str
    reason: str


def local_interfaces() -> list[dict[str, Any]]:
    """Every IPv4 interface of this node that is up: name, address, network, speed in Mbit/s (0: unknown). Local."""
    import psutil

    stats = psutil.net_if_stats()
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        for item in addresses:
            if item.family == socket.AF_INET and item.netmask and name in stats and stats[name].isup:
                network = ipaddress.ip_network(f"{item.address}/{item.netmask}", strict=False)
                found.append(
                    {"name": name, "address": item.address, "network": str(network), "speed": max(0, stats[name].speed)}
                )
    return found


def interfaces_without_carrier() -> list[str]:
    """Names of this node's interfaces that exist and are down, or have no carrier. Local."""
    import psutil

    return [name for name, stats in psutil.net_if_stats().items() if not stats.isup]


@dataclass(frozen=True)
class Ends:
    """What one rank has: its node's name, its interfaces that are up (`local_interfaces`) and names of those not."""

    hostname: str
    up: Sequence[Mapping[str, Any]]
    down: Sequence[str]


def problem_of(name: str, everyone: Sequence[Ends]) -> str | None:
    """Why interface `name` cannot serve all ranks ("no carrier on node2"), or None where it may. Pure."""
    problems = {}
    for ends in everyone:
        if not any(item["name"] == name for item in ends.up):
            problems[ends.hostname] = "no carrier" if name in ends.down else "none of that name, or without an address,"
    return ", ".join(f"{problem} on {host}" for host, problem in problems.items()) or None


def choose_preferred(
    names: Sequence[str], everyone: Sequence[Ends], rank: int, meets: Callable[[str], str | None]
) -> Interface:
    """The first of `names` that all ranks have up and over which they meet; those passed over are in the reason.

    `meets`: tells why the nodes do not reach one another over an interface that is up, or None; called in the same
    order, with the same names, on all ranks. Raises UserError where none works.
    """
    passed: list[str] = []
    for name in names:
        problem = problem_of(name, everyone) or meets(name)
        if problem is None:
            reason = "; ".join(passed) or "the first of distributed.interfaces"
            return Interface(name, address_of(name, everyone[rank]), reason)
        passed.append(f"{name}: {problem}")
    raise UserError(
        f"no interface of distributed.interfaces works: {'; '.join(passed)}",
        f"interfaces that are up on rank 0: {', '.join(sorted({item['name'] for item in everyone[0].up}))}",
    )


def address_of(name: str, ends: Ends) -> str:
    """The first address of interface `name`, which must be up."""
    return next(item["address"] for item in ends.up if item["name"] == name)


def choose(
    everyone: Sequence[Sequence[Mapping[str, Any]]], rank: int, nodes: int, wanted: str | None = None
) -> Interface:
    """The interface of `rank`. Pure; the same network is chosen on every rank. Raises UserError.

    Args:
        everyone: `local_interfaces()` of every rank, in rank order.
        nodes: number of nodes; on one node the loopback interface serves and nothing leaves the machine.
        wanted: a name given by setting or by GLOO_SOCKET_IFNAME.
    """
    mine = everyone[rank]
    if wanted:
        match = next((item for item in mine if item["name"] == wanted), None)
        if match is None:
            names = ", ".join(sorted({item["name"] for item in mine}))
            raise UserError(f"interface {wanted} is not up on {socket.gethostname()}", f"interfaces here: {names}")
        return Interface(wanted, match["address"], "set by hand")
    if nodes == 1:
        loopback = next((item for item in mine if ipaddress.ip_address(item["address"]).is_loopback), None)
        if loopback is not None:
            return Interface(loopback["name"], loopback["address"], "one node: nothing leaves it")
    common = set.intersection(*({item["network"] for item in items if not _is_loopback(item)} for items in everyone))
    # a bridge of containers has the same address on every node: the same name for networks that do not meet
    common = {
        n for n in common if len({i["address"] for items in everyone for i in items if i["network"] == n}) >= nodes
    }
    if not common:
        table = "; ".join(
            f"rank {r}: {', '.join(item['network'] for item in items)}" for r, items in enumerate(everyone)
        )
        raise UserError(f"the ranks share no network ({table})", "name one with distributed.interface=NAME")
    speed = {n: min(max(i["speed"] for i in items if i["network"] == n) for items in everyone) for n in common}
    network = min(common, key=lambda n: (-speed[n], n))
    item = next(item for item in mine if item["network"] == network)
    pace = f", {speed[network]} Mbit/s" if speed[network] else ""
    return Interface(item["name"], item["address"], f"network {network} shared by all ranks{pace}")


def wanted_interface(setting: str | None) -> str | None:
    """The interface named by a person: the setting first, then GLOO_SOCKET_IFNAME."""
    return setting or os.environ.get("GLOO_SOCKET_IFNAME") or None


def _is_loopback(item: Mapping[str, Any]) -> bool:
    return ipaddress.ip_address(item["address"]).is_loopback
