"""What the monitor's acts do to the training: carried out between two steps, on all ranks alike."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from ryzen_mpi.cluster.allocator import keep_freed_memory
from ryzen_mpi.health.acts import Act
from ryzen_mpi.training.step import TrainingStep

LOWER = 0.5
"""What a learning rate is multiplied by when it has to be lowered."""
MOST_PAUSE_S = 5.0
"""The others wait in a collective meanwhile, whose timeout a pause must never come near."""


class Hands:
    """Changes a rank's training step as acts ask for. Every rank has its own; local.

    Args:
        host: name of this rank's node: some acts are for the ranks of a node alone.

    Attributes:
        stop: whether training is to be saved and left.
    """

    def __init__(self, step: TrainingStep, host: str) -> None:
        self.step, self.host = step, host
        self.stop = False
        self._threads = torch.get_num_threads()
        self._pause_s = 0.0

    def carry_out(self, act: Act) -> str:
        """Does what `act` asks of this rank; says what that was, for people. Going back is the caller's."""
        return getattr(self, f"_{act.kind}", self._nothing)(act)

    def rest(self) -> None:
        """Pauses, where this rank's node is too hot."""
        if self._pause_s:
            time.sleep(self._pause_s)

    def _nothing(self, act: Act) -> str:
        return {"skip": "the step is skipped", "roll_back": "going back"}.get(act.kind, "")

    def _lower_rate(self, act: Act) -> str:
        progress = self.step.progress
        self.step.progress = replace(progress, rate_factor=progress.rate_factor * LOWER)
        return f"the learning rate is multiplied by {self.step.progress.rate_factor:g} from here on"

    def _halve_micro_batch(self, act: Act) -> str:
        before = self.step.micro_batch
        self.step.micro_batch = max(1, before // 2)
        keep_freed_memory()  # what larger activations took goes back to the kernel
        return f"micro-batches of {self.step.micro_batch} samples in place of {before}, the same global batch"

    def _save_and_stop(self, act: Act) -> str:
        self.stop = True
        return "saving and stopping"

    def _fewer_threads(self, act: Act) -> str:
        if act.node == self.host:
            torch.set_num_threads(max(1, torch.get_num_threads() // 2))
        return "half the threads on that node"

    def _all_threads(self, act: Act) -> str:
        if act.node == self.host:
            torch.set_num_threads(self._threads)
            self._pause_s = 0.0
        return "all threads again on that node, no pauses"

    def _pause(self, act: Act) -> str:
        seconds = min(MOST_PAUSE_S, float(act.figures.get("seconds", 1.0)))
        if act.node == self.host:
            self._pause_s = seconds
        return f"that node's ranks pause {seconds:g} s after every step"
