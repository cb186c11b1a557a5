"""The main job with faults a soak must find: `PLANTED="slow:R kill:R@K spoil:K"`.

slow:R    rank R works three times as long as it has to on every step
kill:R@K  rank R kills itself in step K of the supervisor's first attempt
spoil:K   one bit of step K's checkpoint is another one than its manifest tells of
"""

import os
import runpy
import signal
import time

from ryzen_mpi.training import checkpoint_store
from ryzen_mpi.training.step import TrainingStep

PLANTED = dict(item.split(":") for item in os.environ["PLANTED"].split())
original_run, original_forward = TrainingStep.run, TrainingStep._forward_backward
original_manifest = checkpoint_store._write_manifest


def run(self, stop=0):
    killed = PLANTED.get("kill") == f"{self.rank}@{self.progress.step + 1}"
    if killed and os.environ.get("RYZEN_MPI_EPOCH") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return original_run(self, stop)


def forward_backward(self, *rest):
    began = time.perf_counter()
    result = original_forward(self, *rest)
    if PLANTED.get("slow") == str(self.rank):
        time.sleep(2 * (time.perf_counter() - began))
    return result


def write_manifest(path, content):
    if PLANTED.get("spoil") == str(content["step"]):
        file = next(path.parent.glob("*.safetensors"))
        spoilt = bytearray(file.read_bytes())
        spoilt[-1] ^= 1
        file.write_bytes(spoilt)
    return original_manifest(path, content)


TrainingStep.run, TrainingStep._forward_backward = run, forward_backward
checkpoint_store._write_manifest = write_manifest
runpy.run_module("ryzen_mpi.train", run_name="__main__")
