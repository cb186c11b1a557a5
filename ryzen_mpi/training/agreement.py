"""What all ranks decide together, once a step, before the optimiser changes anything.

One small all-gather carries every rank's row: is my part finite, was I asked to stop, my loss, my times. Every rank
then draws the same conclusion from the same table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import psutil
import torch
import torch.distributed as dist

from ryzen_mpi.cluster.gauges import NAMES as GAUGES
from ryzen_mpi.training.reduce import world_size

UNKNOWN = (math.nan,) * len(GAUGES)
"""Of a rank that looks at nothing."""


@dataclass
class Row:
    """One rank's words at a step. Every field is a number; field order is the order on the wire.

    Attributes:
        finite: 1 where this rank's loss and its part of the gradient are finite.
        stop: number of the signal it was asked to stop with, or 0.
        loss: its part of the step's mean loss (nats per token; the parts add up).
        square_norm: its part of the squared norm of the gradient (the parts add up).
        right: right predictions among its tokens.
        tokens: tokens it trained in this step.
        sent_bytes, plain_bytes: of gradients to other nodes in this step, and what they would be uncompressed.
        own_square: squared norm of its own gradient before reduction, an estimate (OwnNorm).
        clock_s: its monotonic clock.
        step_s, communication_s, reduce_s: of the step before, which is the newest it can know.
        beats, looks: signs of life it has given, and looks it has taken at its machine.
        saved: step of the newest checkpoint it knows to be on disk (rank 0 does); -1 where it knows of none.
        rss_bytes: resident memory now.
        cpu_share: CPU seconds per wall second since the row before.
        gauges: the newest look at its machine (cluster.gauges.NAMES).
    """

    finite: float = 1.0
    stop: float = 0.0
    loss: float = 0.0
    square_norm: float = 0.0
    right: float = 0.0
    tokens: float = 0.0
    sent_bytes: float = 0.0
    plain_bytes: float = 0.0
    own_square: float = 0.0
    clock_s: float = 0.0
    step_s: float = math.nan
    communication_s: float = math.nan
    reduce_s: float = math.nan
    beats: float = math.nan
    looks: float = 0.0
    saved: float = -1.0
    rss_bytes: float = 0.0
    cpu_share: float = math.nan
    gauges: Sequence[float] = UNKNOWN

    def values(self) -> list[float]:
        """As they are on the wire."""
        return [*(getattr(self, name) for name in _NAMES), *self.gauges]


_NAMES = tuple(field.name for field in fields(Row))[:-1]


class Table:
    """The rows of all ranks: `table.loss` is an array [ranks], and so for every field of `Row`.

    `gauges` has one by name.
    """

    def __init__(self, values: np.ndarray) -> None:
        for column, name in enumerate(_NAMES):
            setattr(self, name, values[:, column])
        self.gauges = dict(zip(GAUGES, values[:, len(_NAMES) :].T, strict=True))

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Table:
        """That of rows which are all here. Local."""
        return cls(np.array([row.values() for row in rows], dtype=np.float64))

    @property
    def rank_loss(self) -> np.ndarray:
        """Each rank's mean loss over its own tokens, nats; NaN where it had none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.loss * self.tokens.sum() / self.tokens

    finite: np.ndarray
    stop: np.ndarray
    loss: np.ndarray
    square_norm: np.ndarray
    right: np.ndarray
    tokens: np.ndarray
    sent_bytes: np.ndarray
    plain_bytes: np.ndarray
    own_square: np.ndarray
    clock_s: np.ndarray
    step_s: np.ndarray
    communication_s: np.ndarray
    reduce_s: np.ndarray
    beats: np.ndarray
    looks: np.ndarray
    saved: np.ndarray
    rss_bytes: np.ndarray
    cpu_share: np.ndarray


class Agreement:
    """Gathers rows. All ranks call `gather` at the same points."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.ranks = world_size(group)
        self._all = torch.zeros(self.ranks, len(_NAMES) + len(GAUGES), dtype=torch.float64)
        self._rows = list(self._all.unbind(0))

    def gather(self, row: Row) -> tuple[Table, float]:
        """Every rank's row and the seconds it took. Collective."""
        started = time.perf_counter()
        mine = torch.tensor(row.values(), dtype=torch.float64)
        if self.ranks == 1:
            self._rows[0].copy_(mine)
        else:
            dist.all_gather(self._rows, mine, group=self.group)
        return Table(self._all.numpy().copy()), time.perf_counter() - started


class Usage:
    """This process' resident memory and CPU use, cheaply. Local."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def sample(self) -> tuple[int, float]:
        """Resident bytes now, and CPU seconds per wall second since the call before."""
        wall, cpu = time.perf_counter(), time.process_time()
        share = (cpu - self._cpu) / max(1e-9, wall - self._wall)
        self._wall, self._cpu = wall, cpu
        return self._process.memory_info().rss, share
