"""`planted_checks.py FOLDER`: checks of training on real ranks, one after the other, with a fault planted in each.

Faults are put into the package from outside, for as long as one check lasts. What each check found is written to
FOLDER/NAME.json by rank 0.
"""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from ryzen_mpi.cluster.job import run_job
from ryzen_mpi.cluster.phases import phase
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.reduce import ArenaReducer
from ryzen_mpi.training.replicated import Replicated
from ryzen_mpi.training.step import TrainingStep
from ryzen_mpi.validation.registry import Context, find
from ryzen_mpi.validation.result import plain

BAD = 1
"""The rank that misbehaves."""
ELEMENT = 70


def after_update(act: Callable[[Replicated], None], at: int) -> AbstractContextManager:
    """`act` on rank BAD after its update number `at`."""
    original = Replicated.update

    def update(self, factor, learning_rate):
        original(self, factor, learning_rate)
        if self.rank == BAD and self.updates == at:
            act(self)

    return mock.patch.object(Replicated, "update", update)


def one_ulp(strategy: Replicated) -> None:
    master = strategy.flat.master
    master[ELEMENT] = torch.nextafter(master[ELEMENT], torch.tensor(9.0))


def flip(vector: torch.Tensor, bit: int) -> None:
    vector.view(torch.int32)[ELEMENT] ^= 1 << bit


def after_reduce(act: Callable[[ArenaReducer, int], None], before: bool = False) -> AbstractContextManager:
    """`act(reducer, rank)` in every reduction: on the sum, or before on what is added up."""
    original = ArenaReducer._reduce

    def reduce(self):
        if before:
            act(self, dist.get_rank())
        seconds = original(self)
        if not before:
            act(self, dist.get_rank())
        return seconds

    return mock.patch.object(ArenaReducer, "_reduce", reduce)


def bit_on_all(reducer, rank):
    flip(reducer.flat.gradient, 14)


def bit_on_one(reducer, rank):
    if rank == BAD:
        flip(reducer.flat.gradient, 0)


def left_out(reducer, rank):
    if rank == BAD:
        reducer.flat.gradient.zero_()


def summed() -> AbstractContextManager:
    """Every rank divides by its own tokens: the sum over ranks is as many times too large."""
    original = TrainingStep._forward_backward

    def forward_backward(self, position, count, rank):
        model = self.model.forward  # of this step alone: the reference computes with a model of its own

        def forward(inputs, targets, scale, keys):
            return model(inputs, targets, scale * self.ranks, keys)

        with mock.patch.object(self.model, "forward", forward):
            return original(self, position, count, rank)

    return mock.patch.object(TrainingStep, "_forward_backward", forward_backward)


def not_a_number() -> AbstractContextManager:
    original, calls = Transformer.forward, []

    def forward(self, *inputs):
        loss, right = original(self, *inputs)
        calls.append(1)
        bad = dist.get_rank() == BAD and len(calls) == 3
        return (loss * float("nan") if bad else loss), right

    return mock.patch.object(Transformer, "forward", forward)


def frozen_once() -> AbstractContextManager:
    """Rank BAD leaves its update number 10 out."""
    original = Replicated.update

    def update(self, factor, learning_rate):
        if self.rank == BAD and self.updates == 9:
            self.optimizer.updates += 1
            return
        original(self, factor, learning_rate)

    return mock.patch.object(Replicated, "update", update)


def lost_bit() -> AbstractContextManager:
    """One bit of one result on one rank, in one of many all-reduces."""
    original, calls = dist.all_reduce, []

    def all_reduce(vector, *more, **named):
        done = original(vector, *more, **named)
        if dist.get_rank() == BAD and vector.dtype == torch.float32 and vector.numel() == 1000 and not calls:
            calls.append(1)
            flip(vector, 3)
        return done

    return mock.patch.object(dist, "all_reduce", all_reduce)


def batch_twice() -> AbstractContextManager:
    """Rank BAD trains its first micro-batch in place of its second."""
    original = TrainingStep.micro_batches

    def micro_batches(self, position, count, rank=None):
        batches = list(original(self, position, count, rank))
        if self.rank == BAD:
            batches[1] = batches[0]
        return iter(batches)

    return mock.patch.object(TrainingStep, "micro_batches", micro_batches)


FEW = {"steps": 4, "dtypes": "float32"}
COUNT = {"steps": 60}
CASES: dict[str, tuple[str, dict, Callable[[], AbstractContextManager]]] = {
    "healthy gradient_sync": ("gradient_sync", {"steps": 4}, nullcontext),
    "healthy gloo": ("gradient_sync", {"steps": 4, "backend": "gloo"}, nullcontext),
    "healthy zero": ("gradient_sync", {"steps": 4, "overrides": ["hardware.zero_stage=2"]}, nullcontext),
    "healthy sync_accuracy": ("sync_accuracy", COUNT, nullcontext),
    "healthy sync_accuracy again": ("sync_accuracy", COUNT, nullcontext),
    "healthy silent_corruption": ("silent_corruption", {"repeats": 1}, nullcontext),
    "healthy accumulation": ("accumulation", {"steps": 1}, nullcontext),
    "one ulp": ("gradient_sync", FEW, lambda: after_update(one_ulp, at=3)),
    "a bit on all ranks": ("gradient_sync", FEW, lambda: after_reduce(bit_on_all)),
    "a bit on one rank": ("gradient_sync", FEW, lambda: after_reduce(bit_on_one)),
    "a rank left out": ("gradient_sync", FEW, lambda: after_reduce(left_out, before=True)),
    "summed": ("gradient_sync", FEW, summed),
    "not a number": ("gradient_sync", FEW, not_a_number),
    "frozen once": ("sync_accuracy", COUNT, frozen_once),
    "a lost bit": ("silent_corruption", {"repeats": 1}, lost_bit),
    "a batch twice": ("accumulation", {"steps": 1}, batch_twice),
}


def run(world) -> int:
    folder = Path(sys.argv[1])
    for name, (check, options, fault) in CASES.items():
        mine = folder / ("counted" if name.startswith("healthy sync_accuracy") else name)
        more = dict(options)
        words = tuple(more.pop("overrides", ()))
        context = Context(phase("1"), world.size, mine, world, None, ("hardware.num_threads=1", *words), more)
        with fault():
            findings = find(check).run(context)
        if world.is_leader:
            (folder / f"{name}.json").write_text(json.dumps(plain(asdict(findings))))
    return 0


if __name__ == "__main__":
    sys.exit(run_job(run))
