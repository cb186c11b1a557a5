"""What the monitor's acts do to the training: carried out between two steps, on all ranks alike."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from ryzen_mpi.cluster.allocator import keep_freed_memory
from ryzen_mpi.health.acts import Act
from ryzen_mpi.training.step import TrainingStep

PAUSE_SHARE = 0.5
"""Of distributed.timeout_s, which a pause must never come near."""


class Hands:
    """Changes a rank's training step as acts ask for. Every rank has its own; local.

    Args:
        host: name of this rank's node: some acts are for the ranks of a node alone.

    Attributes:
        longest_s: of a pause.
        stop: whether training is to be saved and left.
    """

    def __init__(self, step: TrainingStep, host: str) -> None:
        self.step, self.host = step, host
        self._threads = torch.get_num_threads()
        self.longest_s = PAUSE_SHARE * step.settings.distributed.timeout_s
        self.stop = False

    def begin(self) -> None:
        """Training goes on after going back: rules that know nothing of fewer threads find all of them."""
        torch.set_num_threads(self._threads)

    def carry_out(self, act: Act) -> str:
        """Does what `act` asks of this rank; says what that was, for people. Going back is the caller's."""
        return getattr(self, f"_{act.kind}", self._nothing)(act)

    def _nothing(self, act: Act) -> str:
        return {"skip": "the step is skipped", "roll_back": "going back"}.get(act.kind, "")

    def _lower_rate(self, act: Act) -> str:
        progress, factor, steps = self.step.progress, float(act.figures["factor"]), int(act.figures["steps"])
        lowered = factor * progress.factor
        self.step.progress = replace(progress, rate_factor=lowered, lowered_until=progress.step + steps)
        return f"the learning rate is multiplied by {lowered:g} for {steps} steps"

    def _halve_micro_batch(self, act: Act) -> str:
        before = self.step.micro_batch
        self.step.micro_batch = max(1, before // 2)
        keep_freed_memory()  # what larger activations took goes back to the kernel
        return f"micro-batches of {self.step.micro_batch} samples in place of {before}, the same global batch"

    def _save_and_stop(self, act: Act) -> str:
        self.stop = True
        return "saving and stopping"

    def _fewer_threads(self, act: Act) -> str:
        if act.node == self.host:  # the figure is that of the node's rank that has most
            torch.set_num_threads(min(self._threads, max(1, int(act.figures["threads"]))))
        return f"{act.figures['threads']} threads a rank on that node"

    _all_threads = _fewer_threads

    def _pause(self, act: Act) -> str:
        """All ranks at once, so that none waits in a collective."""
        seconds = min(self.longest_s, float(act.figures["seconds"]))
        time.sleep(seconds)
        return f"all ranks have paused for {seconds:g} s"
