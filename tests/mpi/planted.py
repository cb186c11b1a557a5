"""The main job with a fault planted: `PLANTED="sleep:0.02 raise:1@5 stop:0@7"` and so on, `what:rank@step`.

sleep:S      every step takes S seconds longer
raise:R@K    rank R raises in step K
kill:R@K     rank R kills itself in step K
stop:R@K     rank R is sent SIGUSR1 before step K
spoil:R@K    rank R puts a file where the checkpoints were, before step K
early:R      rank R raises before it trains at all
"""

import os
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

from ryzen_mpi.training.step import TrainingStep

PLANTED = dict(item.split(":") for item in os.environ["PLANTED"].split())
original = TrainingStep.run


def due(name: str, step: TrainingStep) -> bool:
    return PLANTED.get(name) == f"{step.rank}@{step.progress.step + 1}"


def run(self: TrainingStep, stop: int = 0):
    time.sleep(float(PLANTED.get("sleep", "0")))
    if due("raise", self):
        raise ArithmeticError("planted: the sum does not add up")
    if due("kill", self):
        os.kill(os.getpid(), signal.SIGKILL)
    if due("spoil", self):
        checkpoints = Path(sys.argv[sys.argv.index("--run-dir") + 1], "checkpoints")
        time.sleep(0.5)  # for the one that is being written
        shutil.rmtree(checkpoints)
        checkpoints.write_text("no folder")
    if due("stop", self):
        os.kill(os.getpid(), signal.SIGUSR1)
        stop = signal.SIGUSR1
    return original(self, stop)


TrainingStep.run = run
if "early" in PLANTED:
    from ryzen_mpi import startup

    real = startup.check_memory

    def check_memory(world, settings):
        if str(world.rank) == PLANTED["early"]:
            raise ArithmeticError("planted: before the first step")
        return real(world, settings)

    startup.check_memory = check_memory

runpy.run_module("ryzen_mpi.train", run_name="__main__")
