"""The main job with faults a soak must find: `PLANTED="slow:R kill:R@K spoil:K"`.

slow:R    rank R works 30 ms longer on every step
kill:R@K  rank R kills itself in step K of the supervisor's first attempt
spoil:K   one byte of step K's checkpoint is changed on the disk, as soon as it is there
"""

import os
import runpy
import signal
import time

from ryzen_mpi.training import checkpoint
from ryzen_mpi.training.step import TrainingStep

PLANTED = dict(item.split(":") for item in os.environ["PLANTED"].split())
original_run, original_forward = TrainingStep.run, TrainingStep._forward_backward
original_write = checkpoint.write_checkpoint


def run(self, stop=0):
    killed = PLANTED.get("kill") == f"{self.rank}@{self.progress.step + 1}"
    if killed and os.environ.get("RYZEN_MPI_EPOCH") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return original_run(self, stop)


def forward_backward(self, *rest):
    if PLANTED.get("slow") == str(self.rank):
        time.sleep(0.03)
    return original_forward(self, *rest)


def write_checkpoint(directory, step, *rest):
    path = original_write(directory, step, *rest)
    if PLANTED.get("spoil") == str(step):
        file = next(path.glob("*.safetensors"))
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    return path


TrainingStep.run, TrainingStep._forward_backward = run, forward_backward
checkpoint.write_checkpoint = write_checkpoint
runpy.run_module("ryzen_mpi.train", run_name="__main__")
