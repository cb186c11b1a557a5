"""The kernel's own counts of what went wrong on the network, of this node (of this network namespace)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ryzen_mpi.cluster.kernel import Untold, protocol_counts

PROC_NET, CLASS_NET = Path("/proc/net"), Path("/sys/class/net")
TCP = ("OutSegs", "RetransSegs", "InErrs", "InCsumErrors")
UDP = ("RcvbufErrors", "SndbufErrors", "InCsumErrors")
EXTENDED = ("TCPTimeouts", "TCPLostRetransmit", "TCPSpuriousRTOs", "TCPBacklogDrop", "ListenDrops")
INTERFACE = ("rx_errors", "tx_errors", "rx_dropped", "tx_dropped", "rx_crc_errors", "rx_missed_errors")


def read(interface: str, proc: Path = PROC_NET, net: Path = CLASS_NET) -> dict[str, int]:
    """Counter -> value: "Tcp.RetransSegs", "TcpExt.TCPTimeouts", "eth0.rx_errors"; what is not told is left out. Local.

    Sources: kernel documentation networking/snmp_counter and networking/statistics.
    """
    found = {}
    for name, wanted in (("Tcp", TCP), ("Udp", UDP), ("TcpExt", EXTENDED)):
        try:
            table = protocol_counts(name, proc / ("netstat" if name == "TcpExt" else "snmp"))
        except (OSError, ValueError, Untold):
            continue
        found |= {f"{name}.{key}": table[key] for key in wanted if key in table}
    for key in INTERFACE:
        try:
            found[f"{interface}.{key}"] = int((net / interface / "statistics" / key).read_text())
        except (OSError, ValueError):
            continue
    return found


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What went up between two readings, and by how much. Pure."""
    return {name: after[name] - before[name] for name in after if name in before and after[name] > before[name]}


def speed_mbit_s(interface: str, net: Path = CLASS_NET) -> int | None:
    """Mbit/s of a real network card; None where it is not told, or virtual (those name any figure). Local."""
    if not (net / interface / "device").exists():
        return None
    try:
        speed = int((net / interface / "speed").read_text())
    except (OSError, ValueError):
        return None
    return speed if speed > 0 else None
