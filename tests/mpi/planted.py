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
data:S       preparing the data takes S seconds longer
segv:R@K     rank R reads what is not its own in step K
gil:R@K      rank R waits in step K, for ever, without letting the interpreter's lock go
forget:all   the optimiser's moments are zero before the first step

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
    return original(self, stop)


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
    time.sleep(float(PLANTED["data"]))
    return original_prepare(*arguments)


TrainingStep.run = run
if "evaluate" in PLANTED:
    original_evaluate, TrainingStep.evaluate = TrainingStep.evaluate, evaluate
if "partial" in PLANTED:
    from ryzen_mpi.training import checkpoint_store

    original_manifest, checkpoint_store._write_manifest = checkpoint_store._write_manifest, write_manifest
if "data" in PLANTED:
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
