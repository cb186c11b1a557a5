"""The kernel's own counts of what went wrong on the network, of this node (of this network namespace)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
        table = _table(proc / ("netstat" if name == "TcpExt" else "snmp"), name)
        found |= {f"{name}.{key}": table[key] for key in wanted if key in table}
    for key in INTERFACE:
        try:
            found[f"{interface}.{key}"] = int((net / interface / "statistics" / key).read_text())
        except (OSError, ValueError):
            continue
    return found


def _table(path: Path, name: str) -> dict[str, int]:
    """The two lines of a protocol: names, then values."""
    try:
        rows = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith(f"{name}:")]
        return dict(zip(rows[0], map(int, rows[1]), strict=True)) if len(rows) == 2 else {}
    except (OSError, ValueError):
        return {}


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
