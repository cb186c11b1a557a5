"""Where a process runs and where its memory lies, as the kernel tells; not as anybody planned."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

TASKS = Path("/proc/self/task")
NUMA_MAPS = Path("/proc/self/numa_maps")
LOOK_EVERY_S = 0.005
_PROCESSOR = 36
"""Of /proc/PID/stat behind the name: the CPU the thread last ran on (proc(5), field 39)."""


def running_on(seconds: float, threads: int, tasks: Path = TASKS) -> tuple[Counter[int], set[int]]:
    """(how often each CPU was seen, CPUs the threads may use) while `threads` threads of this process compute. Local.

    NumPy computes without the interpreter's lock, so that the threads really run beside each other.
    """
    import numpy as np

    seen: Counter[int] = Counter()
    stop = threading.Event()
    numbers: list[int] = []

    def compute() -> None:
        numbers.append(threading.get_native_id())
        data = np.ones(1 << 17)
        while not stop.is_set():
            np.sqrt(data, out=data)

    workers = [threading.Thread(target=compute, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for number in numbers:
            place = _processor(tasks / str(number) / "stat")
            if place is not None:
                seen[place] += 1
        time.sleep(LOOK_EVERY_S)
    allowed = allowed_cpus(tasks)  # while the threads live
    stop.set()
    for worker in workers:
        worker.join()
    return seen, allowed


def allowed_cpus(tasks: Path = TASKS) -> set[int]:
    """The CPUs that any thread of this process may run on: one that was started before the binding may be loose."""
    found: set[int] = set()
    for task in tasks.iterdir():
        try:
            found |= os.sched_getaffinity(int(task.name))
        except OSError:  # ended meanwhile
            continue
    return found


def _processor(path: Path) -> int | None:
    try:
        return int(path.read_text().rpartition(")")[2].split()[_PROCESSOR])
    except (OSError, ValueError, IndexError):
        return None


def bytes_by_domain(size: int, numa_maps: Path = NUMA_MAPS) -> dict[int, int] | None:
    """NUMA domain -> bytes, of `size` bytes that this process touches now; None where the kernel does not tell. Local.

    The memory is this call's own, written to once: the kernel gives the pages where the thread runs ("first touch").
    """
    import numpy as np

    with mmap.mmap(-1, size) as memory:
        words = np.frombuffer(memory, dtype=np.uint8)
        words[:: mmap.PAGESIZE] = 1
        address = words.__array_interface__["data"][0]
        try:
            lines = numa_maps.read_text().splitlines()
        except OSError:
            return None
        finally:
            del words
    return bytes_at(address, size, lines)


def bytes_at(address: int, size: int, lines: Iterable[str]) -> dict[int, int] | None:
    """NUMA domain -> bytes of the mapping that holds `address`, from /proc/PID/numa_maps; None if not there. Pure.

    The kernel joins neighbouring mappings: of one that holds more than `size` bytes the shares are still its own.
    Source: proc(5), numa_maps: "N<node>=<nr_pages>", "kernelpagesize_kB".
    """
    best: tuple[int, dict[int, int]] | None = None
    for line in lines:
        start, *words = line.split()
        try:
            begin = int(start, 16)
        except ValueError:
            continue
        if begin <= address and (best is None or begin > best[0]):
            unit = next((int(word.partition("=")[2]) for word in words if word.startswith("kernelpagesize_kB=")), 4)
            pages = {
                int(name[1:]): int(count) * unit * 1024
                for name, _, count in (word.partition("=") for word in words)
                if name[:1] == "N" and name[1:].isdigit()
            }
            best = begin, pages
    return best[1] if best and best[1] else None
