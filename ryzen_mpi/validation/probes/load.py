"""All cores of a node at work for some seconds, and what its sensors say meanwhile."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from ryzen_mpi.cluster import sensors
from ryzen_mpi.cluster.sensors import Reading

LOOK_EVERY_S = 0.1
SIZE = 768
"""Of the matrices: some milliseconds a product, so that the threads hardly wait for the interpreter's lock."""


@dataclass
class Look:
    """The sensors at one moment, `at` seconds (monotonic)."""

    at: float
    temperatures: Reading
    clocks: Reading
    throttles: Reading
    energies: Reading


@dataclass
class Heat:
    """What was seen of a load, or of rest.

    Attributes:
        looks: in order; the first before the load.
        done: seconds from the beginning at which each piece of work ended, of all cores, in order.
        seconds: it lasted.
        cores: that worked; 0 at rest.
    """

    looks: list[Look] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cores: int = 0

    def highest(self) -> float | None:
        """Degrees Celsius of the hottest sensor at any time; None without a sensor."""
        values = [value for look in self.looks for value in look.temperatures.values.values()]
        return max(values, default=None)

    def clock_mhz(self) -> list[float]:
        """Mean over the CPUs at every look but the first."""
        readings = [look.clocks.values for look in self.looks[1:]]
        return [sum(values.values()) / len(values) for values in readings if values]

    def throttled(self) -> int | None:
        """Times any CPU slowed itself down meanwhile; None where nothing counts them."""
        first, last = self.looks[0].throttles.values, self.looks[-1].throttles.values
        return int(sum(last[name] - first[name] for name in last if name in first)) if last else None

    def watts(self, root: Path = sensors.SYS) -> float | None:
        """Of all processor packages together; None where no counter tells."""
        total, known = 0.0, False
        for zone in self.looks[0].energies.values:
            counts = [look.energies.values.get(zone) for look in self.looks]
            if None in counts:
                continue
            known = True
            for before, after in zip(counts, counts[1:], strict=False):
                total += after - before if after >= before else after - before + sensors.energy_range(zone, root)
        elapsed = self.looks[-1].at - self.looks[0].at
        return total / 1e6 / elapsed if known and elapsed > 0 else None

    def sustained(self) -> float | None:
        """Work a second in the last third over that in the second, warm-up left out; None where too little was done."""
        thirds = [sum(1 for at in self.done if part <= 3 * at / self.seconds < part + 1) for part in range(3)]
        return thirds[2] / thirds[1] if min(thirds) >= 10 else None


def watch(seconds: float, work: bool, root: Path = sensors.SYS, cpuinfo: Path = sensors.CPUINFO) -> Heat:
    """What the sensors say for `seconds`, with all CPUs this process may use at work, or at rest. Local."""
    cpus = sorted(os.sched_getaffinity(0)) if work else []
    heat, stop = Heat(cores=len(cpus)), threading.Event()
    heat.looks.append(look(root, cpuinfo))
    began = time.monotonic()
    rows: list[list[float]] = [[] for _ in cpus]
    workers = [
        threading.Thread(target=_work, args=(cpu, stop, row, began), daemon=True)
        for cpu, row in zip(cpus, rows, strict=True)
    ]
    for worker in workers:
        worker.start()
    while (left := began + seconds - time.monotonic()) > 0:
        time.sleep(min(left, LOOK_EVERY_S))
        heat.looks.append(look(root, cpuinfo))
    stop.set()
    for worker in workers:
        worker.join()
    heat.seconds = time.monotonic() - began
    heat.done = sorted(at for row in rows for at in row)
    return heat


def look(root: Path, cpuinfo: Path) -> Look:
    """All sensors now. Local."""
    warmth, clocks = sensors.temperatures(root), sensors.clocks(root, cpuinfo)
    return Look(time.monotonic(), warmth, clocks, sensors.throttles(root), sensors.energies(root))


def _work(cpu: int, stop: threading.Event, done: list[float], began: float) -> None:
    import torch

    os.sched_setaffinity(threading.get_native_id(), {cpu})
    torch.set_num_threads(1)  # of this thread: there is one on every CPU
    left = torch.full((SIZE, SIZE), 1e-3)
    out = torch.empty_like(left)
    while not stop.is_set():
        torch.mm(left, left, out=out)
        done.append(time.monotonic() - began)
