"""When and what is saved. Rank 0 writes; the others have nothing to do and go on."""

from __future__ import annotations

from collections.abc import Callable

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import Fenced, RunDirectory
from ryzen_mpi.training.checkpoint import CheckpointWriter, set_aside_newer
from ryzen_mpi.training.state import checkpoint_state, checkpoint_tensors
from ryzen_mpi.training.step import TrainingStep


class Saver:
    """Saves a training step's state into a run directory, in the background. Rank 0.

    One write may fail (a disk that is full for an hour): it is told, the checkpoints before it stay, and the next save
    tries again, as does close(). That one is waited for, and where it fails too, so does the run.

    Args:
        report: is told why a write failed, and at which step.
    """

    def __init__(
        self, run: RunDirectory, keep: int, corpus: str, resumed_step: int, report: Callable[[UserError, int], None]
    ) -> None:
        self.writer = CheckpointWriter(run.checkpoints, keep, run.staging)
        set_aside_newer(run.checkpoints, resumed_step, keep, run.staging)
        self.corpus, self.report = corpus, report
        on_disk = any(run.checkpoints.glob(f"step-{resumed_step:08d}"))
        self._resumed = self._submitted = resumed_step if on_disk else -1
        self._failure: UserError | None = None
        self.held_s = 0.0

    @property
    def on_disk(self) -> int:
        """The newest step of this run that a good checkpoint holds; -1 where none does."""
        return self.writer.last.step if self.writer.last else self._resumed

    def look(self) -> int:
        """`on_disk`; tells, once, of a write that has failed. Does not wait."""
        if not self.writer.writing:
            self._settle()
        return self.on_disk

    def save(self, step: TrainingStep) -> None:
        """Takes a copy to be written; does nothing where this step is saved already. Raises UserError."""
        self._settle()
        if isinstance(self._failure, Fenced):
            raise self._failure
        if self._submitted == step.progress.step:
            return
        self.held_s += self.writer.submit(
            step.progress.step, checkpoint_tensors(step), checkpoint_state(step, self.corpus)
        )
        self._submitted = step.progress.step
        if self._failure is not None:
            self.writer.wait()
            self._failure = None

    def close(self, step: TrainingStep) -> None:
        """Returns when the state of `step` is on disk. Raises UserError where it cannot be."""
        self.save(step)
        self.writer.close()

    def _settle(self) -> None:
        """Waits for the write under way and remembers how it ended."""
        try:
            self.writer.wait()
        except UserError as error:
            if not isinstance(error, Fenced):  # that one is not tried again
                self.report(error, self._submitted)
            self._failure, self._submitted = error, self.on_disk


class NoSaver:
    """What the other ranks have."""

    def look(self) -> None:
        return None

    def save(self, step: TrainingStep) -> None:
        pass

    def close(self, step: TrainingStep) -> None:
        pass
