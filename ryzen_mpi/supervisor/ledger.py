"""What an attempt achieved, and what all of them did together: steps kept and repeated, productive and total time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ryzen_mpi.supervisor.listener import Pulse

STEPS_FOR_P99 = 20
WINDOW = 200


class Track:
    """Follows the heartbeats of one attempt. Local.

    Attributes:
        resumed, step, saved: steps: where it began, the last one finished, the last one on disk; -1 where unknown.
        trained_s: seconds spent in steps.
        imported_s: monotonic time when no rank was starting up (importing) any more; None before.
        first_step_s: monotonic time the first step was seen finished; None before.
    """

    def __init__(self) -> None:
        self.resumed = self.step = self.saved = -1
        self.trained_s = 0.0
        self.imported_s: float | None = None
        self.first_step_s: float | None = None
        self._path: deque[tuple[int, float]] = deque()
        self._steps_s: deque[float] = deque(maxlen=WINDOW)

    def take(self, pulses: Mapping[int, Pulse], ranks: int, now: float) -> None:
        """Takes the newest reports of an attempt of `ranks` ranks."""
        if 0 not in pulses:
            return
        if len(pulses) == ranks and all(pulse.report.phase != "start" for pulse in pulses.values()):
            self.imported_s = self.imported_s or now
        report = pulses[0].report
        self.resumed = report.resumed
        self.saved = max(self.saved, report.saved)
        if report.step > max(self.step, self.resumed):
            if self.step >= 0:
                self._steps_s.append((report.trained_s - self.trained_s) / (report.step - max(self.step, self.resumed)))
            self.first_step_s = self.first_step_s or now
            self._path.append((report.step, report.trained_s))
            self.trained_s = report.trained_s
        self.step = max(self.step, report.step)
        while len(self._path) > 1 and self._path[1][0] <= self.saved:
            self._path.popleft()

    def step_p99_s(self) -> float:
        """99th percentile of the seconds a step took; 0 while there are too few."""
        if len(self._steps_s) < STEPS_FOR_P99:
            return 0.0
        ordered = sorted(self._steps_s)
        return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]

    def trained_until(self, step: int) -> float:
        """Seconds spent in steps up to `step`; between two that were seen, in proportion."""
        before = (max(self.resumed, 0), 0.0)
        for point in self._path:
            if point[0] >= step:
                share = (step - before[0]) / max(1, point[0] - before[0])
                return before[1] + max(0.0, share) * (point[1] - before[1])
            before = point
        return before[1]


@dataclass
class Record:
    """One attempt as it is kept in state.json.

    Attributes:
        epoch, ranks, hosts: its number, its size, ranks by node.
        started, seconds: wall clock of the launch; until its last process had ended.
        first_step_s: from the launch to the first finished step; import_s of them until all ranks were connected.
        resumed, step, saved: as Track has them.
        trained_s: seconds spent in steps.
        kept_s: those of steps that were saved and not trained again; while it trains, trained_s.
        end, cause, evidence: how it ended.
        seen_s, ended_s: from the fault to the verdict; from the verdict to the last process' end.
    """

    epoch: int
    ranks: int
    hosts: dict[str, int]
    started: float
    seconds: float = 0.0
    first_step_s: float | None = None
    import_s: float | None = None
    resumed: int = -1
    step: int = -1
    saved: int = -1
    trained_s: float = 0.0
    kept_s: float = 0.0
    end: str = "under way"
    cause: str = ""
    evidence: str = ""
    seen_s: float | None = None
    ended_s: float = 0.0


@dataclass(frozen=True)
class Summary:
    """All attempts of a run.

    Attributes:
        attempts, faults: how many; how many of them ended in a fault.
        total_s: seconds supervised, waits between attempts included; time in a queue is not.
        productive_s: seconds in steps whose result was kept.
        ettr: effective training time ratio, productive_s / total_s.
        steps, repeated: steps of the run so far; steps trained more than once.
        causes: faults by kind.
    """

    attempts: int
    faults: int
    total_s: float
    productive_s: float
    ettr: float
    steps: int
    repeated: int
    causes: dict[str, int] = field(default_factory=dict)


def summarise(records: Sequence[Record], total_s: float) -> Summary:
    """The account of all attempts so far. Pure."""
    causes: dict[str, int] = {}
    for record in records:
        if record.end == "fault":
            causes[record.cause] = causes.get(record.cause, 0) + 1
    began = [r for r in records if r.resumed >= 0]
    repeated = sum(max(0, a.step - b.resumed) for a, b in zip(began, began[1:], strict=False))
    productive = sum(record.kept_s for record in records)
    steps = max((r.step for r in records), default=0)
    ettr = productive / total_s if total_s > 0 else 0.0
    return Summary(len(records), sum(causes.values()), total_s, productive, ettr, max(0, steps), repeated, causes)
