"""SIGKILL of all ranks at random moments while every step is saved: a good checkpoint and the metrics remain."""

import os
import random
import signal
import subprocess
import sys
import time

import launch
import numpy as np
from launch import checkpoint_steps, metrics, mpirun, overrides, run, train

from ryzen_mpi.training.checkpoint_reading import newest_good

ALONE, TOGETHER = 17, 3
WORDS = dict(training__save_interval=1, training__max_steps=100_000, training__log_interval=2, data__num_samples=10**7)

# Imports what takes seconds once and forks a job for every kill (before MPI is up: it is not forked).
NURSERY = """
import os, sys
import torch, h5py, rich.progress
import ryzen_mpi.train, ryzen_mpi.finish, ryzen_mpi.startup
import ryzen_mpi.cluster.job, ryzen_mpi.settings, ryzen_mpi.training.tools
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        ryzen_mpi.train.command(sys.argv[1:])
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


def check(path, reached):
    """What is on disk after a kill; returns the newest checkpoint's step."""
    found, damaged = newest_good(path / "checkpoints")
    assert found is not None and not damaged, damaged
    assert found.step >= reached, f"step {found.step}: {reached} had been saved before"
    assert found.state["progress"]["step"] == found.step
    steps = metrics(path)["training/step"]
    assert np.array_equal(steps, np.arange(1, len(steps) + 1)), steps
    return found.step


def test_whatever_moment_all_ranks_are_killed_at_a_good_checkpoint_and_the_metrics_remain(tmp_path):
    path, random_moment, reached = tmp_path / "run", random.Random(20), 0
    words = train(path, *overrides(**WORDS))

    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY, *words[2:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "stderr").open("w"),
        text=True,
        env=launch.environment(),
    )
    try:
        for _ in range(ALONE):
            nursery.stdin.write("go\n")
            nursery.stdin.flush()
            child = int(_next(nursery, str.isdigit))
            _wait_for(lambda seen=reached: max(checkpoint_steps(path), default=0) > seen, tmp_path)
            time.sleep(random_moment.uniform(0, 0.3))
            os.kill(child, signal.SIGKILL)
            _next(nursery, "dead".__eq__)
            reached = check(path, reached + 1)
    finally:
        nursery.kill()
        nursery.wait()
    for _ in range(TOGETHER):
        job = launch.Job(mpirun(2, *words), tmp_path)
        job.wait_for(lambda seen=reached: max(checkpoint_steps(path), default=0) > seen)
        time.sleep(random_moment.uniform(0, 0.3))
        job.kill()
        reached = check(path, reached + 1)
    words = train(path, *overrides(**WORDS | dict(training__max_steps=reached + 3)))
    last = run(mpirun(2, *words), tmp_path).succeeded()
    assert (path / "COMPLETE.json").exists(), last.said()
    assert metrics(path)["training/step"].tolist() == list(range(1, reached + 4))


def _next(nursery, wanted):
    """The next line of the nursery that is one of its own; the jobs print between."""
    for line in nursery.stdout:
        if wanted(line.strip()):
            return line
    raise AssertionError("the nursery ended")


def _wait_for(condition, tmp_path, limit_s=60.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, (tmp_path / "stderr").read_text()[-3000:]
        time.sleep(0.005)
