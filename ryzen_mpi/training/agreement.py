"""What all ranks decide together, once a step, before the optimiser changes anything.

One small all-gather carries every rank's row: is my part finite, was I asked to stop, my loss, my times. Every rank
then draws the same conclusion from the same table.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields

import numpy as np
import psutil
import torch
import torch.distributed as dist

from ryzen_mpi.training.reduce import world_size


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
        step_s, communication_s: of the step before, which is the newest it can know.
        rss_bytes: resident memory now.
        cpu_share: CPU seconds per wall second since the row before.
    """

    finite: float = 1.0
    stop: float = 0.0
    loss: float = 0.0
    square_norm: float = 0.0
    right: float = 0.0
    tokens: float = 0.0
    sent_bytes: float = 0.0
    plain_bytes: float = 0.0
    step_s: float = float("nan")
    communication_s: float = float("nan")
    rss_bytes: float = 0.0
    cpu_share: float = float("nan")


class Table:
    """The rows of all ranks: `table.loss` is an array [ranks], and so for every field of `Row`."""

    def __init__(self, values: np.ndarray) -> None:
        for column, field in enumerate(fields(Row)):
            setattr(self, field.name, values[:, column])

    finite: np.ndarray
    stop: np.ndarray
    loss: np.ndarray
    square_norm: np.ndarray
    right: np.ndarray
    tokens: np.ndarray
    sent_bytes: np.ndarray
    plain_bytes: np.ndarray
    step_s: np.ndarray
    communication_s: np.ndarray
    rss_bytes: np.ndarray
    cpu_share: np.ndarray


class Agreement:
    """Gathers rows. All ranks call `gather` at the same points."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.ranks = world_size(group)
        self.width = len(fields(Row))
        self._all = torch.zeros(self.ranks, self.width, dtype=torch.float64)
        self._rows = list(self._all.unbind(0))

    def gather(self, row: Row) -> tuple[Table, float]:
        """Every rank's row and the seconds it took. Collective."""
        started = time.perf_counter()
        mine = torch.tensor([getattr(row, field.name) for field in fields(Row)], dtype=torch.float64)
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
