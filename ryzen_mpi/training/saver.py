"""When and what is saved. Rank 0 writes; the others have nothing to do and go on."""

from __future__ import annotations

from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.training.checkpoint import CheckpointWriter, discard_newer
from ryzen_mpi.training.state import checkpoint_state, checkpoint_tensors
from ryzen_mpi.training.step import TrainingStep


class Saver:
    """Saves a training step's state into a run directory, in the background. Rank 0."""

    def __init__(self, run: RunDirectory, keep: int, corpus: str, resumed_step: int) -> None:
        self.writer = CheckpointWriter(run.checkpoints, keep)
        discard_newer(run.checkpoints, resumed_step)  # damaged ones, passed over: they must not win after the next stop
        self.corpus = corpus
        on_disk = any(run.checkpoints.glob(f"step-{resumed_step:08d}"))
        self.saved_step: int | None = resumed_step if on_disk else None
        self.held_s = 0.0

    def save(self, step: TrainingStep) -> None:
        """Takes a copy to be written; does nothing where this step is saved already. Raises UserError."""
        if self.saved_step != step.progress.step:
            self.held_s += self.writer.submit(
                step.progress.step, checkpoint_tensors(step), checkpoint_state(step, self.corpus)
            )
            self.saved_step = step.progress.step

    def close(self) -> None:
        """Waits until everything is on disk. Raises UserError."""
        self.writer.close()


class NoSaver:
    """What the other ranks have."""

    def save(self, step: TrainingStep) -> None:
        pass

    def close(self) -> None:
        pass
