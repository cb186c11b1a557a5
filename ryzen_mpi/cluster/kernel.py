"""What the kernel tells of this process and its node, from /proc, cheaply: it is read while the rank trains.

`proc` lets tests plant a tree. Sources: proc(5), kernel documentation accounting/psi, networking/snmp_counter,
scheduler/sched-stats.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PROC, TASKS = Path("/proc"), Path("/proc/self/task")
Threads = dict[str, tuple[int, int]]


class Untold(Exception):
    """Something that is not told here; the text says why."""


def text(path: str | Path) -> str:
    """What a file of the kernel says now, in a fraction of the time of `Path.read_text`. Raises OSError."""
    parts = []
    handle = os.open(path, os.O_RDONLY)
    try:
        while part := os.read(handle, 1 << 16):  # the kernel gives a longer one by the page
            parts.append(part)
    except OSError as error:  # pressure that is switched off can be opened and not read
        error.filename = str(path)
        raise
    finally:
        os.close(handle)
    return b"".join(parts).decode()


def size_of(key: str, path: Path) -> int:
    """Bytes behind `key` in a file of lines "key: N kB": meminfo of /proc or of a NUMA domain, status of a process.

    Raises OSError, and Untold where there is no such line.
    """
    found = re.search(rf"\b{key}:\s+(\d+) kB", text(path))
    if not found:
        raise Untold(f"no {key} in {path}")
    return int(found[1]) * 1024


def protocol_counts(name: str, path: Path) -> dict[str, int]:
    """A protocol's two lines of /proc/net/snmp or netstat, names and values. Raises OSError, Untold without them."""
    rows = [line.split()[1:] for line in text(path).splitlines() if line.startswith(f"{name}:")]
    if len(rows) != 2:
        raise Untold(f"no {name} in {path}")
    return dict(zip(rows[0], map(int, rows[1]), strict=True))


def lost_packets(proc: Path = PROC) -> dict[str, int]:
    """Interface -> packets dropped or damaged, both ways, of this network namespace, without loopback. Raises OSError.

    Frames of a protocol nobody speaks count as dropped: a few a minute are usual where switches announce themselves.
    """
    lost = {}
    for line in text(proc / "net/dev").splitlines()[2:]:
        interface, _, counts = line.partition(":")
        _, _, bad_in, dropped_in, _, _, _, _, _, _, bad_out, dropped_out, *_ = map(int, counts.split())
        lost[interface.strip()] = bad_in + dropped_in + bad_out + dropped_out
    lost.pop("lo", None)
    return lost


def read_threads(tasks: Path = TASKS) -> Threads | None:
    """Nanoseconds (run, waited for a core) of every thread of this process; None where the kernel does not count."""
    threads = {}
    for task in os.scandir(tasks):
        try:
            ran, waited, _ = text(f"{task.path}/schedstat").split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that ended meanwhile
        except (OSError, ValueError):
            return None
        threads[task.name] = int(ran), int(waited)
    return threads or None


def pressure(resource: str, groups: Sequence[Path] = (), proc: Path = PROC) -> float:
    """Share of the last 10 s in which some task waited for `resource`: cpu, memory or io (PSI).

    Of the first of the control `groups` that has it (version 2 has, where it isn't switched off), else of the node.
    Raises OSError, and Untold where the file has another form.
    """
    told, path = "", proc / "pressure" / resource
    for group in groups:
        with suppress(OSError):
            told = text(group / f"{resource}.pressure")
            break
    found = re.search(r"^some avg10=([\d.]+)", told or text(path))
    if not found:
        raise Untold(f"no avg10 in {path}")
    return float(found[1]) / 100
