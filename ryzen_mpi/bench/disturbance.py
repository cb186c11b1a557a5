"""Whether something else ran where a measurement did: the time a rank was ready and had no core.

The kernel counts it for every thread, in the second field of schedstat ("time spent waiting on a runqueue", kernel
documentation, scheduler/sched-stats). All threads are looked at: while Gloo works, the main thread only sleeps.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ryzen_mpi.cluster.kernel import Threads

DISTURBED_SHARE = 0.02
"""Of the measured time; beyond it a figure tells of the machine's other work, not of communication."""
OTHERS_SHARE = 0.10
"""Of the cores' time taken by others; a quiet machine's own housekeeping stays far below."""
SHORTEST_S = 0.3
STAT = Path("/proc/stat")


def waited_share(before: Threads | None, after: Threads | None, elapsed_ns: int) -> float:
    """Share of `elapsed_ns` in which some thread waited for a core that another process had; NaN if unknown. Local.

    A backend's own threads (Gloo's, ours) run on the rank's core too: waiting for them is part of the backend's time.
    So what the other threads of the process ran is taken off what a thread waited.
    """
    if before is None or after is None:
        return float("nan")
    ran = {name: after[name][0] - before.get(name, (0, 0))[0] for name in after}
    total = sum(ran.values())
    foreign = max(after[name][1] - before.get(name, (0, 0))[1] - (total - ran[name]) for name in after)
    # a wait is counted when it ends: one that began before may be longer than what was measured
    return min(1.0, max(0, foreign) / max(1, elapsed_ns))


def is_disturbed(waited: float, others: float = float("nan")) -> bool | None:
    """Whether a measurement with these shares is to be marked; None where neither is known. Local."""
    if waited != waited and others != others:
        return None
    return waited > DISTURBED_SHARE or others > OTHERS_SHARE


class Others:
    """CPU time that other programs, and other virtual machines, took on the cores of the ranks.

    Run-queue delay does not show it all: a backend that sleeps until the kernel's network code has run, as Gloo does,
    is slowed to a multiple by a busy machine without ever waiting on a run queue itself.
    """

    def __init__(self, stat: Path = STAT) -> None:
        self.stat, self.cpus = stat, sorted(os.sched_getaffinity(0))
        self.began, self.before, self.own = time.monotonic(), self._busy(), time.process_time()

    def _busy(self) -> dict[str, int] | None:
        """Ticks every core of this rank has been busy, network and interrupts left out; None where not told."""
        busy = {}
        try:
            for line in self.stat.read_text().splitlines():
                name, *columns = line.split()
                if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in self.cpus:
                    user, nice, system, _, _, _, _, steal = (int(word) for word in columns[:8])
                    busy[name[3:]] = user + nice + system + steal
        except (OSError, ValueError):
            return None
        return busy or None

    def report(self) -> list:
        """[seconds since the start, busy seconds of each core, CPU seconds of this process], JSON-able. Local."""
        own, after, tick = time.process_time() - self.own, self._busy(), os.sysconf("SC_CLK_TCK")
        known = self.before is not None and after is not None
        cores = {cpu: (after[cpu] - self.before.get(cpu, 0)) / tick for cpu in after} if known else None
        return [time.monotonic() - self.began, cores, own]


def others_share(reports: list[list]) -> float:
    """Share of the time of a node's cores that no rank of it used, from all its ranks' reports; NaN if unknown. Local.

    The kernel counts in ticks of some milliseconds: of less than `SHORTEST_S` seconds nothing is told.
    """
    elapsed = max(elapsed for elapsed, _, _ in reports)
    if elapsed < SHORTEST_S or any(cores is None for _, cores, _ in reports):
        return float("nan")
    cores = {cpu: busy for _, known, _ in reports for cpu, busy in known.items()}
    foreign = sum(cores.values()) - sum(own for _, _, own in reports)
    return min(1.0, max(0.0, foreign) / (elapsed * len(cores)))
