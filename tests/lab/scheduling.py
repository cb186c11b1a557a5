"""The kernel's scheduler while a lab is up: all hosts share this machine's cores, as one machine's threads do.

Linux puts every session into a scheduling group of its own (autogroup), and each host's ranks are sessions of their
own. Cores are then shared out among groups before threads, and on Linux 6.18 a group whose rank polls MPI kept 93 % of
a core for minutes while ranks of the other hosts, which it waited for, stood still: 12 ranks on three hosts took 223 s
to the end of a check, or never came there, which take 63 s without groups. No two nodes of a real cluster share a core.
"""

from __future__ import annotations

from pathlib import Path

AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
RECORD = "sched_autogroup_enabled"
"""In a lab's folder: what the kernel's setting was, where this lab changed it."""


def ungroup(folder: Path, setting: Path = AUTOGROUP) -> None:
    """Turns autogroups off, with a record in the lab's folder; leaves a kernel alone that has none or forbids it."""
    try:
        before = setting.read_text().strip()
        if before != "0":
            (folder / RECORD).write_text(before)
            setting.write_text("0")
    except OSError:
        return


def regroup(folder: Path, setting: Path = AUTOGROUP) -> None:
    """Sets back what the lab of this folder has changed."""
    record = folder / RECORD
    try:
        if record.exists():
            setting.write_text(record.read_text())
    except OSError:
        return
