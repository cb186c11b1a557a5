"""Which network interface the ranks talk over: chosen from facts, and shown with the reason."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
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
