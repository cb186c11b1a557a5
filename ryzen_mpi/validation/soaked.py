"""What a supervised run proves of a system's stability: pure functions of its metrics and its account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ryzen_mpi.figures import Figure, median
from ryzen_mpi.supervisor.ledger import Record
from ryzen_mpi.validation.statistics import Slope, drift, robust_deviation, spikes

WARMUP_STEPS = 5
"""At the start of every attempt: page faults, caches, kernels being chosen."""
WINDOWS = 40
LEAST_WINDOWS = 6
"""Below, a median has no 95 % interval."""


@dataclass(frozen=True)
class Soak:
    """A soak's record.

    Attributes:
        steps, wall_s, step_s, samples, loss, norm, skipped: [rows], of one step each, in order.
        rank_step_s, rank_wait_s, rank_rss, rank_cpu: [rows, ranks].
        attempts: of the supervisor.
        interval: steps between checkpoints.
        verified: what became of each checkpoint that was seen: step -> "" or what was wrong with it.
        memory: shares of each NUMA node's memory in use, a row a look.
        cores: that the ranks have, all together.
        ended: why it ended before somebody asked it to; "" where it did not.
    """

    steps: np.ndarray
    wall_s: np.ndarray
    step_s: np.ndarray
    samples: np.ndarray
    loss: np.ndarray
    norm: np.ndarray
    skipped: np.ndarray
    rank_step_s: np.ndarray
    rank_wait_s: np.ndarray
    rank_rss: np.ndarray
    rank_cpu: np.ndarray
    attempts: Sequence[Record]
    interval: int
    verified: Mapping[int, str]
    memory: Sequence[Mapping[str, float]]
    cores: int
    ended: str = ""

    @classmethod
    def of(cls, metrics: Mapping[str, np.ndarray], **more) -> Soak:
        """From `read_metrics`; `more`: the attributes that are not in there."""
        return cls(
            metrics["training/step"],
            metrics["training/wall_time_s"],
            metrics["training/step_s"],
            metrics["training/samples"],
            metrics["training/loss"],
            metrics["training/gradient_norm"],
            metrics["training/skipped"],
            metrics["training/rank_step_s"],
            metrics["communication/rank_communication_s"],
            metrics["hardware/rank_rss_bytes"],
            metrics["hardware/rank_cpu_share"],
            **more,
        )


@dataclass
class Time:
    """Where a soak's time went.

    Attributes:
        trained_s: in the steps of the record, with what lies between them.
        down_s: from the last step that was kept before a fault to the first after it.
        clock_s: [rows] of them passed at the end of each step: pauses and lost time left out.
        starts: rows that are the first of an attempt.
        faults: attempts that ended in one.
    """

    trained_s: float = 0.0
    down_s: float = 0.0
    clock_s: np.ndarray = field(default_factory=lambda: np.empty(0))
    starts: list[int] = field(default_factory=list)
    faults: int = 0

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First row of each attempt, and the one after its last."""
        return list(zip(self.starts, [*self.starts[1:], len(self.clock_s)], strict=False))

    @property
    def uptime(self) -> float:
        whole = self.trained_s + self.down_s
        return self.trained_s / whole if whole else 0.0


def time_of(soak: Soak) -> Time:
    """Trained and lost time. A pause that somebody asked for is neither. Pure."""
    time = Time(faults=sum(record.end == "fault" for record in soak.attempts))
    if not len(soak.steps):
        return time
    time.starts = [0]
    time.clock_s = soak.wall_s - soak.wall_s[0] + soak.step_s[0]
    broken = False
    began: dict[int, bool] = {}  # step an attempt went on from -> whether a fault led to it
    for before, record in zip(soak.attempts, list(soak.attempts)[1:], strict=False):
        broken = broken or before.end == "fault"
        if record.step > record.resumed >= 0:
            began[record.resumed] = began.get(record.resumed, False) or broken
            broken = False
    for resumed, fault in began.items():
        row = int(np.searchsorted(soak.steps, resumed, side="right"))
        if 0 < row < len(soak.steps):
            gap = float(soak.wall_s[row] - soak.wall_s[row - 1] - soak.step_s[row])
            time.clock_s[row:] -= gap
            time.down_s += gap if fault else 0.0
            time.starts.append(row)
    time.starts.sort()
    time.trained_s = float(time.clock_s[-1])
    return time


@dataclass(frozen=True)
class Windows:
    """Samples a second in stretches of equally many steps: `at_s` after the beginning, `rates`."""

    at_s: np.ndarray
    rates: np.ndarray

    def throughput(self) -> Figure:
        return median(self.rates)

    def deviation(self) -> float:
        """Of the rates, as a share of their median."""
        return robust_deviation(self.rates)

    def drift(self) -> Slope:
        """Change of the rate over the whole soak, as a share of its median."""
        middle = float(np.median(self.rates)) if len(self.rates) else 0.0
        length = float(self.at_s[-1] - self.at_s[0]) if len(self.at_s) > 1 else 0.0
        return drift(self.at_s, self.rates).scaled(length / middle if middle else 1.0)


def windows_of(soak: Soak, time: Time) -> Windows:
    """About WINDOWS stretches, none over an attempt's end, warm-up left out. Pure."""
    each = max(1, len(soak.steps) // WINDOWS)
    at, rates = [], []
    for first, end in time.spans:
        for start in range(first + WARMUP_STEPS, end - each + 1, each):
            last = start + each - 1
            seconds = time.clock_s[last] - time.clock_s[start - 1]
            at.append(time.clock_s[last])
            rates.append((soak.samples[last] - soak.samples[start - 1]) / seconds if seconds > 0 else np.inf)
    return Windows(np.array(at), np.array(rates))


def warm_rows(soak: Soak, time: Time) -> np.ndarray:
    """[rows] whether a step is past its attempt's warm-up. Pure."""
    warm = np.ones(len(soak.steps), dtype=bool)
    for start in time.starts:
        warm[start : start + WARMUP_STEPS] = False
    return warm


def cpu_use(soak: Soak, warm: np.ndarray) -> float:
    """CPU seconds a second of all ranks, as a share of their cores; NaN without steps. Pure."""
    used = np.nansum(soak.rank_cpu[warm], axis=1)
    return float(np.median(used)) / soak.cores if len(used) else float("nan")


def memory_growth(soak: Soak, time: Time) -> Slope:
    """Growth of the ranks' resident memory over the second half of the longest attempt, as a share of it. Pure.

    A leak is a process' own, and its start is no leak: buffers are made when they are first needed.
    """
    if not time.starts:
        return drift([], [])
    first, end = max(time.spans, key=lambda span: span[1] - span[0])
    rows = slice(max(first + WARMUP_STEPS, (first + end) // 2), end)
    held, at = np.nansum(soak.rank_rss[rows], axis=1), time.clock_s[rows]
    middle, length = (float(np.median(held)), float(at[-1] - at[0])) if len(held) else (0.0, 0.0)
    return drift(at, held).scaled(length / middle if middle else 1.0)


def work_by_rank(soak: Soak, warm: np.ndarray) -> list[float]:
    """Median seconds of a step that each rank worked, that is did not wait for others. Pure."""
    work = soak.rank_step_s[warm] - soak.rank_wait_s[warm]
    return [float(np.nanmedian(column)) for column in work.T if np.isfinite(column).any()]


def imbalance(by_rank: Sequence[float]) -> tuple[float, int]:
    """The largest deviation of a rank's work from the mean of all, as a share of it, and the rank. Pure."""
    if len(by_rank) < 2:
        return 0.0, 0
    off = np.abs(np.array(by_rank) / np.mean(by_rank) - 1)
    return float(off.max()), int(off.argmax())


def not_finite(soak: Soak) -> list[int]:
    """Steps with a loss or gradient norm that is no number, or that all ranks skipped for one. Pure."""
    wrong = ~np.isfinite(soak.loss) | ~np.isfinite(soak.norm) | (soak.skipped != 0)
    return soak.steps[wrong].tolist()


def spiking(soak: Soak) -> tuple[list[int], list[int]]:
    """Steps at which the loss, and at which the gradient's norm, rose out of its neighbourhood. Pure."""
    finite = np.isfinite(soak.loss) & np.isfinite(soak.norm)
    steps = soak.steps[finite]
    return steps[spikes(soak.loss[finite])].tolist(), steps[spikes(soak.norm[finite])].tolist()


def norm_growth(soak: Soak) -> float:
    """The gradient norm's median in the last quarter over that in the second, less 1; NaN below 40 steps. Pure."""
    norm = soak.norm[np.isfinite(soak.norm)]
    quarter = len(norm) // 4
    if quarter < 10:
        return float("nan")
    return float(np.median(norm[-quarter:]) / np.median(norm[quarter : 2 * quarter]) - 1)


def checkpoints_of(soak: Soak) -> tuple[int, list[str]]:
    """How many were due, and what is wrong: missing ones, and those that did not verify. Pure."""
    last = int(soak.steps[-1]) if len(soak.steps) else 0
    due = range(soak.interval, last + 1, soak.interval)
    wrong = [f"the checkpoint of step {step} was due and not seen" for step in due if step not in soak.verified]
    wrong += [f"the checkpoint of step {step} is damaged: {text}" for step, text in soak.verified.items() if text]
    return len(due), wrong


def cannot_be(soak: Soak) -> list[str]:
    """What no run can have left behind. Pure."""
    found = []
    if (np.diff(soak.wall_s) < 0).any():
        step = soak.steps[1:][np.diff(soak.wall_s) < 0][0]
        found.append(f"the clock went backwards at step {step}: no rate of this run means anything")
    if len(soak.steps) and not np.array_equal(soak.steps, np.arange(1, len(soak.steps) + 1)):
        found.append("steps of the record are missing, or there twice")
    return found
