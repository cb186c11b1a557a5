"""Carrying a soak out: one supervised run, continued call after call, looked at while it runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ryzen_mpi.cluster.topology import read_memory
from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.reader import read_metrics
from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.training.checkpoint_reading import DamagedCheckpoint, find_checkpoints, load_checkpoint
from ryzen_mpi.validation.registry import Context
from ryzen_mpi.validation.soaked import Soak, time_of
from ryzen_mpi.validation.supervised import MAIN_JOB, Supervised

PROFILE, SAVE_INTERVAL, KEEP = "scaling_benchmark", 20, 16
NODES = Path("/sys/devices/system/node")
LOOK_S, MEMORY_S, TELL_S = 0.25, 5.0, 30.0
START_S = 240.0
"""For all ranks to import and make their first step."""
WORDS = (
    *("data.source=markov", "data.num_samples=1000000000", "training.schedule=constant", "training.total_epochs=1"),
    *("training.eval_interval=1000000000", "training.log_interval=100", f"training.keep_checkpoints={KEEP}"),
)
"""Over the profile: a source that can be learnt and does not end. Evaluations would be gaps in the rate."""


def carry_out(context: Context, duration_s: float, program: Sequence[str] = MAIN_JOB) -> Soak:
    """Trains until the soak in the check's folder has lasted `duration_s`, all calls together. Raises UserError.

    `program`: what follows `python` on the ranks; tests give a main job with a fault in it.
    """
    interval = context.count("save_interval", SAVE_INTERVAL)
    profile = str(context.options.get("profile", PROFILE))
    words = ("--config", profile, *WORDS, f"training.save_interval={interval}", *context.overrides)
    looks = Looks(context.folder)
    nodes = context.nodes.count if context.nodes else 1
    with Supervised(context.folder, context.ranks, -(-context.ranks // nodes), program) as run:
        looks.expect({"interval": interval, "words": list(words), "ranks": context.ranks})
        ended = ""
        if _trained_s(run) < duration_s:
            run.start(words)
            ended = _watch(run, looks, duration_s, context.tell)
            run.stop()
            looks.look(run)
        if not run.files.run.metrics.exists():
            raise UserError("the soak left no metrics", run.tail())
        soak = Soak.of(
            read_metrics(run.files.run.metrics),
            attempts=run.records(),
            interval=interval,
            verified=looks.verified,
            memory=looks.memory,
            cores=len(os.sched_getaffinity(0)) * nodes,
            ended=ended,
        )
    context.tell(f"soaked for {time_of(soak).trained_s:.0f} s of {duration_s:g} s")
    return soak


class Looks:
    """What was seen while a soak ran, kept in looks.json beside it: checkpoints, each verified once, and memory."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "looks.json"
        self.verified: dict[int, str] = {}
        self.memory: list[Mapping[str, float]] = []
        self.made_with: dict = {}
        self._memory_at = 0.0
        if self.path.exists():
            content = json.loads(self.path.read_text())
            self.verified = {int(step): text for step, text in content["verified"].items()}
            self.memory, self.made_with = content["memory"], content["made_with"]

    def expect(self, made_with: dict) -> None:
        """Raises UserError where the soak in this folder is another one."""
        if self.made_with and self.made_with != made_with:
            differing = [key for key in made_with if made_with[key] != self.made_with.get(key)]
            raise UserError(
                f"{self.path.parent} holds a soak with other {', '.join(differing)}",
                "give the same options and overrides to go on with it, or take another results folder",
            )
        self.made_with = made_with

    def look(self, run: Supervised) -> None:
        """Verifies new checkpoints and looks at the memory. Local."""
        changed = False
        for path in find_checkpoints(run.files.run.checkpoints):
            step = int("".join(c for c in path.name.partition("step-")[2] if c.isdigit()) or -1)
            if step in self.verified or not path.name.startswith("step-"):
                continue
            try:
                load_checkpoint(path)
                self.verified[step] = ""
            except DamagedCheckpoint as error:
                if not path.is_dir():
                    continue  # the run has retired it meanwhile
                self.verified[step] = f"{error.file}: {error.problem}"
            changed = True
        if time.monotonic() - self._memory_at >= MEMORY_S:
            self._memory_at, changed = time.monotonic(), True
            self.memory.append(memory_shares())
            if len(self.memory) > 2000:
                del self.memory[::2]
        if changed:
            content = {"verified": self.verified, "memory": self.memory, "made_with": self.made_with}
            write_atomic(self.path, json.dumps(content) + "\n")


def memory_shares(root: Path = NODES) -> dict[str, float]:
    """Share of each NUMA node's memory that is in use and no cache, on this node; of all where sysfs tells none."""
    shares = {}
    for path in sorted(root.glob("node[0-9]*/meminfo")):
        try:
            rows = dict(line.split(":")[0].split()[-1:] + [line.split(":")[1].split()[0]] for line in path.open())
            size = {name: int(rows[name]) for name in ("MemTotal", "MemFree", "FilePages", "Shmem", "SReclaimable")}
        except (OSError, ValueError, KeyError, IndexError):
            continue
        if not size["MemTotal"]:
            continue
        used = size["MemTotal"] - size["MemFree"] - (size["FilePages"] - size["Shmem"]) - size["SReclaimable"]
        shares[path.parent.name] = used / size["MemTotal"]
    if not shares:
        memory = read_memory()
        shares["machine"] = 1 - memory.available_bytes / memory.total_bytes
    return shares


def _watch(run: Supervised, looks: Looks, duration_s: float, tell: Callable[[str], object]) -> str:
    """Looks at the run until it has trained for so long; returns why it ended before, where its supervisor gave up.

    Raises UserError where it does not begin to train.
    """
    began = told = time.monotonic()
    while _trained_s(run) < duration_s:
        if run.ended() is not None:
            return f"the supervisor ended the soak by itself, with code {run.ended()}: {run.tail(3)}"
        if time.monotonic() - began > START_S and not any(record.first_step_s for record in run.records()):
            raise UserError(f"no step was made in {START_S:g} s", run.tail())
        looks.look(run)
        if time.monotonic() - told >= TELL_S:
            told = time.monotonic()
            tell(f"soaking: {_trained_s(run):.0f} s of {duration_s:g} s")
        time.sleep(LOOK_S)
    return ""


def _trained_s(run: Supervised) -> float:
    """Seconds in steps that were kept so far, as the supervisor notes them every few seconds."""
    return sum(record.kept_s for record in run.records())
