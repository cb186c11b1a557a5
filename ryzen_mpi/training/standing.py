"""How a run stands beside its steps: what its samples tell of checkpoints, disk and attempts."""

from __future__ import annotations

import contextlib
import shutil
import time

from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.training.saver import Saver
from ryzen_mpi.training.step import TrainingStep


class Standing:
    """Called for the figures, by the names of signals. Rank 0 has one; local."""

    def __init__(self, run: RunDirectory, step: TrainingStep, saver: Saver) -> None:
        self.run, self.step, self.saver = run, step, saver
        self._saved, self._since = saver.on_disk, time.monotonic()

    def __call__(self) -> dict[str, float]:
        saved, now = self.saver.on_disk, time.monotonic()
        if saved != self._saved:
            self._saved, self._since = saved, now
        figures = {
            "attempt": self.run.epoch or 0,
            "skipped_steps": self.step.progress.skipped,
            "rate_factor": self.step.progress.factor,
            "micro_batch": self.step.micro_batch,
            "checkpoint_step": saved,
            "checkpoint_age_s": now - self._since,
        }
        with contextlib.suppress(OSError):
            figures["disk_free_bytes"] = shutil.disk_usage(self.run.path).free
        return figures
