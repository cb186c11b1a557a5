"""What is known of a run, as it was recorded: what its report, its advice and the check lists are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

WARMUP_STEPS = 5
"""Steps after a start or restart that no figure is taken from; as in the run's own summary (training.recorder)."""


@dataclass(frozen=True)
class Steps:
    """The steps of a run, arrays of shape (rows,); those named rank_* (rows, ranks), NaN where there was no such rank.

    Units as in metrics.signals. `batch`: samples of the step alone, NaN where the step before was not recorded.
    """

    step: np.ndarray
    wall_time_s: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    batch: np.ndarray
    step_s: np.ndarray
    communication_s: np.ndarray
    skipped: np.ndarray
    ranks: np.ndarray
    rank_step_s: np.ndarray
    rank_communication_s: np.ndarray
    rank_rss_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.step)

    def rates(self) -> np.ndarray:
        """Samples a second of each step, slowest rank; NaN where the samples of the step are not known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.step_s > 0, self.batch / self.step_s, np.nan)

    def starts(self) -> np.ndarray:
        """Rows where other ranks went on than before, the first row included."""
        return np.flatnonzero(np.concatenate([[True], np.diff(self.ranks) != 0])) if len(self) else np.array([], int)

    def at(self, rows: np.ndarray) -> Steps:
        """These rows alone."""
        return Steps(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def batches(step: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Samples of each step, from those of the run so far. Pure."""
    if not len(step):
        return np.array([])
    before = np.concatenate([[0.0 if step[0] == 1 else np.nan], samples[:-1].astype(float)])
    before[1:][np.diff(step) != 1] = np.nan
    return samples - before


@dataclass(frozen=True)
class Restart:
    """The run went on anew.

    Attributes:
        wall_time_s: when.
        step: the step it went on from, or None where that attempt never trained.
        why: for people.
        planned: somebody asked for it (a resize, a time limit), nothing broke.
    """

    wall_time_s: float
    step: int | None
    why: str
    planned: bool


@dataclass(frozen=True)
class Place:
    """Where a rank ran last: its host, cores and threads, and how many steps the run was to have; None where it did
    not record them."""

    rank: int
    host: str
    cpus: frozenset[int] | None = None
    threads: int | None = None
    node_memory_bytes: int | None = None
    total_steps: int | None = None


@dataclass(frozen=True)
class RunFacts:
    """All that was found in a run directory.

    Attributes:
        path: the directory.
        settings: of config.yaml, by section.
        steps: None where none were recorded.
        held_out: step, loss and accuracy of each evaluation.
        complete, failed, account: COMPLETE.json, FAILED.json, supervisor/summary.json; None where absent.
        stopped: how it was stopped, where it was.
        restarts: oldest first.
        places: of the newest start, by rank.
        checkpoints: step and time of each that is on disk, oldest first.
        troubles: failures and failed saves that were recorded, for people.
        sign_s: newest sign of life, seconds since 1970.
        missing: what is not there or could not be used, in words.
        sources: the files that were read.
    """

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: Steps | None = None
    held_out: tuple[tuple[int, float, float], ...] = ()
    complete: Mapping[str, Any] | None = None
    failed: Mapping[str, Any] | None = None
    account: Mapping[str, Any] | None = None
    stopped: str | None = None
    restarts: tuple[Restart, ...] = ()
    places: tuple[Place, ...] = ()
    checkpoints: tuple[tuple[int, float], ...] = ()
    troubles: tuple[str, ...] = ()
    sign_s: float | None = None
    missing: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.name

    def measured(self) -> Steps | None:
        """The steps that figures are taken from: without those after each start; all where that leaves none."""
        steps = self.steps
        if steps is None or not len(steps):
            return None
        marks = {int(steps.step[row]) for row in steps.starts()}
        marks |= {restart.step + 1 for restart in self.restarts if restart.step is not None}
        warm = np.zeros(len(steps), bool)
        for mark in marks:
            warm |= (steps.step >= mark) & (steps.step < mark + WARMUP_STEPS)
        return steps if warm.all() else steps.at(~warm)
