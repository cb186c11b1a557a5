"""What a rank sees of itself and its machine, from /proc and /sys: numbers by name, NaN with a reason where it cannot.

`rank_<name>` is the signal that each becomes (metrics/signals.py); a test holds the two together. A thread of its own
looks, so that the training step only takes what was seen last.
"""

from __future__ import annotations

import math
import os
import resource
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from time import monotonic, thread_time

from ryzen_mpi.cluster import kernel, sensors
from ryzen_mpi.cluster.kernel import PROC, Untold
from ryzen_mpi.cluster.sensors import SYS, Reading
from ryzen_mpi.cluster.topology import Topology, domain_memory, own_groups, read_memory, read_topology

NAMES = (
    *("retransmits", "packets_lost"),
    *("shared_bytes", "switches", "preemptions", "runqueue_share", "major_faults", "swap_bytes"),
    *("numa_used_bytes", "numa_free_bytes", "memory_available_bytes", "memory_limit_bytes"),
    *("cpu_pressure", "memory_pressure", "io_pressure"),
    *("clock_hz", "temperature_c", "throttles", "power_w"),
)
"""In the order in which ranks tell them one another."""
COUNTED = ("retransmits", "packets_lost", "throttles")
"""Those of them that are a number of events since the look before."""
LONGEST_READ_S = 2.0
"""For which the end of training waits: a sensor behind a slow bus may take its time."""

NAN = math.nan


class Gauges:
    """Looks at the machine every `interval_s` seconds, in a daemon thread that never raises into training.

    Args:
        sys, proc: where the kernel's files are; tests plant others.
        cpus: logical CPUs of this rank; by default those the calling thread may use.
        heat: like `sys`, for temperature, throttling, clock and power alone.

    Attributes:
        taken: looks so far.
        cost_s: CPU seconds of the newest look.
        reasons: name -> why it is NaN; fixed after the first look, but for what fails for the first time later.
    """

    def __init__(
        self,
        interval_s: float,
        sys: Path = SYS,
        proc: Path = PROC,
        cpus: Iterable[int] | None = None,
        heat: Path | None = None,
    ) -> None:
        self.interval_s, self.taken, self.cost_s = interval_s, 0, NAN
        self.reasons: dict[str, str] = {}
        self._places = sys, proc, frozenset(os.sched_getaffinity(0) if cpus is None else cpus), heat or sys
        self._newest = (NAN,) * len(NAMES)
        self._seen: dict[str, float] = {}  # by name; what is COUNTED since the first look
        self._given = self._seen
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)

    def start(self) -> None:
        """Begins to look, at once. Local."""
        self._thread.start()

    def newest(self) -> tuple[float, ...]:
        """What the newest look saw, in the order of NAMES; NaN before the first. Never waits. Local, for one caller.

        What is COUNTED is since the look it gave before: who asks less often than the thread looks misses no event, and
        who asks more often is told the same as long as there is no newer look.
        """
        seen, given = self._seen, self._given
        if seen is not given:
            self._newest = tuple(
                value - given.get(name, 0.0) if name in COUNTED else value for name, value in seen.items()
            )
            self._given = seen
        return self._newest

    def close(self) -> None:
        """Ends the thread, early where it waits. Local."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(LONGEST_READ_S)

    def _run(self) -> None:
        try:
            readers = make_readers(*self._places)
            while not self._closing.is_set():
                self._look(readers)
                if self.taken == 1:  # what is not there is not asked for again
                    readers = {name: read for name, read in readers.items() if name not in self.reasons}
                self._closing.wait(self.interval_s)
        except Exception as error:  # ours, not the machine's; training goes on without gauges
            self.reasons = dict.fromkeys(NAMES, _why(error)) | self.reasons
            self._seen = dict.fromkeys(NAMES, NAN)

    def _look(self, readers: Mapping[str, Callable[[], float]]) -> None:
        began, before, reasons = thread_time(), self._seen, dict(self.reasons)
        seen = dict.fromkeys(NAMES, NAN) | {name: before[name] for name in COUNTED if name in before}
        for name, read in readers.items():
            try:
                value = float(read())
            except Exception as error:  # whatever one file holds, the others are told
                reasons.setdefault(name, _why(error))
                continue
            if math.isfinite(value):
                seen[name] = before.get(name, 0.0) + value if name in COUNTED else value
        self.reasons, self._seen = reasons, seen  # replaced, never changed: the other thread reads them without a lock
        self.cost_s = thread_time() - began
        self.taken += 1


class Growth:
    """How far counters went up since the call before, each on its own, all together; the first call tells 0.

    Args:
        read: counter -> its value now.
        per_second: a rate; the first call tells NaN.
        range_of: counter -> the value after which it begins again from 0. Without, one that fell was begun anew, as
            those of an interface that is set up again.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, float]],
        per_second: bool = False,
        range_of: Callable[[str], float] | None = None,
    ) -> None:
        self._read, self._per_second, self._range_of = read, per_second, range_of
        self._at, self._before = NAN, {}

    def __call__(self) -> float:
        after, now = self._read(), monotonic()
        grown = sum(self._grown(name, value) for name, value in after.items() if name in self._before)
        elapsed, self._at, self._before = now - self._at, now, after
        return grown / elapsed if self._per_second else grown

    def _grown(self, name: str, value: float) -> float:
        before = self._before[name]
        if value >= before:
            return value - before
        return value - before + self._range_of(name) if self._range_of else value


def make_readers(sys: Path, proc: Path, cpus: frozenset[int], heat: Path) -> dict[str, Callable[[], float]]:
    """Of every name the function that tells it now; it raises where it can't be read. Local."""
    status, groups, system = proc / "self/status", sys / "fs/cgroup", sys / "devices/system"
    topology, inner = read_topology(cpus, system), own_groups("", groups, proc)[::-1]
    return {
        "retransmits": Growth(lambda: {"": kernel.protocol_counts("Tcp", proc / "net/snmp")["RetransSegs"]}),
        "packets_lost": Growth(lambda: kernel.lost_packets(proc)),
        "shared_bytes": lambda: kernel.size_of("RssShmem", status),
        "switches": Growth(lambda: {"": _usage().ru_nvcsw}, per_second=True),
        "preemptions": Growth(lambda: {"": _usage().ru_nivcsw}, per_second=True),
        "runqueue_share": Growth(lambda: _waited_s(proc / "self/task"), per_second=True),
        "major_faults": Growth(lambda: {"": _usage().ru_majflt}, per_second=True),
        "swap_bytes": lambda: kernel.size_of("VmSwap", status),
        "numa_used_bytes": lambda: _domains(topology, system)[0],
        "numa_free_bytes": lambda: _domains(topology, system)[1],
        "memory_available_bytes": lambda: read_memory(groups, proc).available_bytes,
        "memory_limit_bytes": lambda: read_memory(groups, proc).total_bytes,
        "cpu_pressure": lambda: kernel.pressure("cpu", inner, proc),
        "memory_pressure": lambda: kernel.pressure("memory", inner, proc),
        "io_pressure": lambda: kernel.pressure("io", inner, proc),
        "clock_hz": lambda: fmean(_told(sensors.clocks(heat, proc / "cpuinfo", cpus)).values()) * 1e6,
        "temperature_c": lambda: max(_told(sensors.temperatures(heat)).values()),
        "throttles": Growth(lambda: _told(sensors.throttles(heat, cpus))),
        "power_w": Growth(
            lambda: {zone: used / 1e6 for zone, used in _told(sensors.energies(heat)).items()},
            per_second=True,
            range_of=lambda zone: sensors.energy_range(zone, heat) / 1e6,
        ),
    }


def _usage() -> resource.struct_rusage:
    """Of all threads of this process, those that have ended too."""
    return resource.getrusage(resource.RUSAGE_SELF)


def _waited_s(tasks: Path) -> dict[str, float]:
    threads = kernel.read_threads(tasks)
    if threads is None:
        raise Untold(f"no schedstat in {tasks}: the kernel does not count the wait for a core")
    return {name: waited_ns / 1e9 for name, (_, waited_ns) in threads.items()}


def _domains(topology: Topology, root: Path) -> tuple[int, int]:
    """Bytes used and free of all domains of the rank's cores."""
    if topology.reason != "sysfs":
        raise Untold(topology.reason)
    used, free = zip(*(domain_memory(domain, root) for domain in topology.domains), strict=True)
    return sum(used), sum(free)


def _told(reading: Reading) -> dict[str, float]:
    if not reading.values:
        raise Untold(reading.why)
    return reading.values


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) if isinstance(error, Untold) else f"{type(error).__name__}: {error}"
