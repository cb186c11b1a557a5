"""When and what is saved. Rank 0 decides and answers for the checkpoint; under ZeRO all write."""

from __future__ import annotations

from collections.abc import Callable

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import Fenced, RunDirectory
from ryzen_mpi.training.checkpoint import CheckpointWriter, set_aside_newer
from ryzen_mpi.training.shards import ShardWriter
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
        self,
        run: RunDirectory,
        keep: int,
        corpus: str,
        resumed_step: int,
        report: Callable[[UserError, int], None],
        shards: int = 0,
    ) -> None:
        self.writer = CheckpointWriter(run.checkpoints, keep, run.staging, shards)
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

    def wants(self, step: int) -> bool:
        """Whether `step` is still to be saved. Waits for the write before; raises Fenced."""
        self._settle()
        if isinstance(self._failure, Fenced):
            raise self._failure
        return self._submitted != step

    def submit(self, step: TrainingStep) -> None:
        """Takes a copy to be written."""
        number, tensors, state = step.progress.step, checkpoint_tensors(step), checkpoint_state(step, self.corpus)
        self.held_s += self.writer.submit(number, tensors, state)
        self._submitted = number

    def confirm(self) -> None:
        """After a write that failed the next one is waited for, and may not fail. Raises UserError."""
        if self._failure is not None:
            self.writer.wait()
            self._failure = None

    def close(self) -> None:
        """Returns when what was submitted is on disk. Raises UserError where it cannot be."""
        self.writer.close()

    def _settle(self) -> None:
        """Waits for the write under way and remembers how it ended."""
        try:
            self.writer.wait()
        except UserError as error:
            if not isinstance(error, Fenced):  # that one is not tried again
                self.report(error, self._submitted)
            self._failure, self._submitted = error, self.on_disk


class ShardSaver:
    """What the other ranks have: under ZeRO each writes its shard, rank 0 makes a checkpoint of them all."""

    held_s = 0.0

    def __init__(self, run: RunDirectory, rank: int) -> None:
        self.writer = ShardWriter(run.staging or run.checkpoints, rank)

    def look(self) -> None:
        return None

    def submit(self, step: TrainingStep) -> None:
        """Takes a copy to be written, where this rank has any."""
        for tensors in checkpoint_tensors(step).values():
            self.held_s += self.writer.submit(step.progress.step, tensors)
