"""The main job with a fault planted: `PLANTED="sleep:0.02 raise:1@5 stop:0@7"` and so on, `what:rank@step`.

sleep:S      every step takes S seconds longer
raise:R@K    rank R raises in step K
kill:R@K     rank R kills itself in step K
stop:R@K     rank R is sent SIGUSR1 before step K
spoil:R@K    rank R puts a file where the checkpoints were, before step K
early:R      rank R raises before it trains at all
evaluate:R@K rank R is sent SIGUSR1 in the evaluation after step K
writing:K    rank 0 is sent SIGUSR1 while step K's checkpoint is written, which takes a second longer
partial:K    step K's checkpoint stays half-written for five seconds
full:K,L,..  the disk is full when the checkpoints of steps K, L, ... are written
prepare:S    preparing the data takes S seconds longer
segv:R@K     rank R reads what is not its own in step K
gil:R@K      rank R waits in step K, for ever, without letting the interpreter's lock go
forget:all   the optimiser's moments are zero before the first step
nan:R@K,..   rank R's gradient has a NaN in its first parameter in the steps K, ...
large:R@K,.. rank R's gradient is ten times what it is in the steps K, ...
data:R@P,..  rank R's gradient has a NaN in the steps whose first samples are the stream's P, ...
ulp:R@K      an element of rank R's weights is moved by one unit in the last place after step K, the first time
flip:R@K     a high bit of an element of rank R's weights is flipped after step K, the first time
always:R@K   as ulp, whenever step K is trained
slow:R@K     rank R computes five times as long, and 0.7 s longer, from step K on

`what#E:…` is planted in the supervisor's attempt E alone.
"""

import ctypes
import errno
import os
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from ryzen_mpi.training import checkpoint
from ryzen_mpi.training.step import TrainingStep

PLANTED = {}
for item in os.environ["PLANTED"].split():
    name, _, value = item.partition(":")
    name, _, attempt = name.partition("#")
    if attempt in ("", os.environ.get("RYZEN_MPI_EPOCH")):
        PLANTED[name] = value
original = TrainingStep.run


def due(name: str, step: TrainingStep) -> bool:
    return PLANTED.get(name) == f"{step.rank}@{step.progress.step + 1}"


def run(self: TrainingStep, stop: int = 0):
    time.sleep(float(PLANTED.get("sleep", "0")))
    if PLANTED.pop("forget", ""):
        for name, vector in self.strategy.vectors():
            if name in ("first", "second"):
                vector.zero_()
    if due("raise", self):
        raise ArithmeticError("planted: the sum does not add up")
    if due("kill", self):
        os.kill(os.getpid(), signal.SIGKILL)
    if due("segv", self):
        ctypes.string_at(0)
    if due("gil", self):
        ctypes.PyDLL(None).sleep(1000)
    if due("spoil", self):
        checkpoints = Path(sys.argv[sys.argv.index("--run-dir") + 1], "checkpoints")
        time.sleep(0.5)  # for the one that is being written
        shutil.rmtree(checkpoints)
        checkpoints.write_text("no folder")
    if due("stop", self):
        os.kill(os.getpid(), signal.SIGUSR1)
        stop = signal.SIGUSR1
    outcome = original(self, stop)
    spoil_weights(self)
    return outcome


def spoil_weights(self: TrainingStep) -> None:
    for name in ("ulp", "flip", "always"):
        if PLANTED.get(name) == f"{self.rank}@{self.progress.step}":
            master = next(iter(self.strategy.weights()))
            bits = master.view({4: torch.int32, 8: torch.int64}[master.element_size()])
            bits[7] ^= 1 << (8 * master.element_size() - 6) if name == "flip" else 1
            if name != "always":
                del PLANTED[name]


def steps_of(name: str, step: TrainingStep) -> list[int]:
    """The steps in which this rank is to be spoilt."""
    rank, _, steps = PLANTED.get(name, "").partition("@")
    return [int(number) for number in steps.split(",")] if rank == str(step.rank) else []


def forward_backward(self: TrainingStep, *arguments):
    number, parameters = self.progress.step + 1, list(self.model.parameters())
    hooks = []
    if number in steps_of("large", self):
        hooks = [parameter.register_hook(lambda gradient: 10 * gradient) for parameter in parameters]
    if number in steps_of("nan", self) or self.progress.samples in steps_of("data", self):
        hooks = [parameters[0].register_hook(lambda gradient: gradient * float("nan"))]
    began = time.perf_counter()
    part = original_backward(self, *arguments)
    if [first for first in steps_of("slow", self) if number >= first]:
        time.sleep(4 * (time.perf_counter() - began) + 0.7)
    for hook in hooks:
        hook.remove()
    return part


def evaluate(self: TrainingStep, beat=lambda: None):
    if PLANTED["evaluate"] == f"{self.rank}@{self.progress.step}":
        os.kill(os.getpid(), signal.SIGUSR1)
    return original_evaluate(self, beat)


def write_checkpoint(directory, step, *rest):
    if PLANTED.get("writing") == str(step):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(1)
    if str(step) in PLANTED.get("full", "").split(","):
        raise OSError(errno.ENOSPC, "planted: no space")
    return original_write(directory, step, *rest)


def write_manifest(path, content):
    if str(content["step"]) == PLANTED["partial"]:
        time.sleep(5)
    return original_manifest(path, content)


def prepare_source(*arguments):
    Path(sys.argv[sys.argv.index("--run-dir") + 1], "preparing").touch()
    time.sleep(float(PLANTED["prepare"]))
    return original_prepare(*arguments)


TrainingStep.run = run
original_backward, TrainingStep._forward_backward = TrainingStep._forward_backward, forward_backward
if "evaluate" in PLANTED:
    original_evaluate, TrainingStep.evaluate = TrainingStep.evaluate, evaluate
if "partial" in PLANTED:
    from ryzen_mpi.training import checkpoint_store

    original_manifest, checkpoint_store._write_manifest = checkpoint_store._write_manifest, write_manifest
if "prepare" in PLANTED:
    from ryzen_mpi.data import choose

    original_prepare, choose.prepare_source = choose.prepare_source, prepare_source
original_write, checkpoint.write_checkpoint = checkpoint.write_checkpoint, write_checkpoint
if "early" in PLANTED:
    from ryzen_mpi import startup

    real = startup.check_memory

    def check_memory(world, *rest):
        if str(world.rank) == PLANTED["early"]:
            raise ArithmeticError("planted: before the first step")
        return real(world, *rest)

    startup.check_memory = check_memory

runpy.run_module("ryzen_mpi.train", run_name="__main__")
