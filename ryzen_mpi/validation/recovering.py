"""Making a supervised run suffer, and seeing whether it trains in the end what an undisturbed one trains."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ryzen_mpi.cluster.world import alone
from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics.reader import read_metrics
from ryzen_mpi.scaling import launch
from ryzen_mpi.settings import load_settings
from ryzen_mpi.supervisor import requests
from ryzen_mpi.training.checkpoint import CheckpointWriter, load_checkpoint
from ryzen_mpi.training.replicas import fingerprint
from ryzen_mpi.training.state import checkpoint_state, checkpoint_tensors, restore
from ryzen_mpi.training.step import TrainingStep
from ryzen_mpi.validation.registry import Context
from ryzen_mpi.validation.supervised import MAIN_JOB, Supervised
from ryzen_mpi.validation.training import make_step

INTERVAL = 50
LIMIT_S = 180.0
"""For ranks to train that have a core each; where they share cores, and import PyTorch in turns, as much longer."""
WORDS = (
    *("data.source=markov", "data.num_samples=100000000", "model.vocab_size=64", "model.embedding_dim=64"),
    *("model.num_heads=2", "model.num_layers=2", "model.feed_forward_dim=128", "model.seq_length=32"),
    *("hardware.dtype=float64", "hardware.num_threads=1", "training.global_batch=48", "training.batch_size=48"),
    *("training.schedule=constant", "training.warmup_steps=0", f"training.save_interval={INTERVAL}"),
    *("training.keep_checkpoints=100000", "training.log_interval=100", "training.eval_interval=1000000000"),
    *("training.eval_samples=32", "distributed.timeout_s=10"),
)
"""In float64, so that runs of other sizes can be compared; a constant rate, so that a run may end anywhere."""


@dataclass(frozen=True)
class Kill:
    """A rank that was killed: seconds until the supervisor knew, and until all ranks trained again; steps repeated."""

    rank: int
    seen_s: float
    recovered_s: float
    repeated: int


@dataclass
class Recovered:
    """What became of a run.

    Attributes:
        kills: in their order.
        ranks: that trained after the last of them.
        resize_s: from the request until the other number of ranks trained; resized: that number.
        same_ranks_until: step up to which the original number trained; steps: of the run.
        losses, undisturbed: by step, of this run and of one that nobody touched.
        compared, equal: checkpoints of steps up to same_ranks_until that both have; those with the same bytes.
        round_trips: checkpoints saved and loaded bit for bit, of `tried`.
    """

    kills: list[Kill] = field(default_factory=list)
    ranks: int = 0
    resize_s: float = float("nan")
    resized: int = 0
    same_ranks_until: int = 0
    steps: int = 0
    losses: np.ndarray = field(default_factory=lambda: np.empty(0))
    undisturbed: np.ndarray = field(default_factory=lambda: np.empty(0))
    compared: int = 0
    equal: int = 0
    round_trips: int = 0
    tried: int = 0


def carry_out(context: Context, kills: int, times: int, program: Sequence[str] = MAIN_JOB) -> Recovered:
    """A supervised run is hit `kills` times and resized; an undisturbed one follows. Raises UserError.

    `program`: what follows `python` on the ranks that are hit; tests give a main job with a fault in it.
    """
    found = Recovered(tried=times)
    words = (*WORDS, *context.overrides)
    folder = context.folder / "recovery"
    shutil.rmtree(folder, ignore_errors=True)  # of a run before this one
    folder.mkdir(parents=True)
    found.round_trips = round_trips(folder / "round-trips", times, words)
    context.tell(f"{found.round_trips} of {times} checkpoints came back bit for bit")
    nodes = context.nodes.count if context.nodes else 1
    limit_s = LIMIT_S * context.crowd()
    with Supervised(folder, context.ranks, -(-2 * context.ranks // nodes), program) as run:
        run.start(words)
        for number in range(kills):
            found.kills.append(kill_rank(run, number, limit_s))
            context.tell(f"rank {found.kills[-1].rank} killed, trains again after {found.kills[-1].recovered_s:.1f} s")
        found.ranks = run.records()[-1].ranks
        resize(run, found, 2 * context.ranks, LIMIT_S * context.crowd(2 * context.ranks))
        context.tell(f"{found.resized} ranks train after {found.resize_s:.1f} s")
        run.stop()
    found.steps = run.files.newest_step()
    compare(context, run, found, words, limit_s)
    return found


def kill_rank(run: Supervised, number: int, limit_s: float) -> Kill:
    """SIGKILL to a rank on this node, another one for each `number`; returns when all train again. Raises UserError."""
    before = run.wait_for("a checkpoint", run.trains, limit_s)
    victims = run.wait_for("ranks on this node", run.processes, limit_s)
    rank = sorted(victims)[number % len(victims)]
    at = time.time()
    victims[rank].kill()
    after = run.wait_for("training after a killed rank", lambda: run.trains(before.epoch), limit_s)
    ended = [record for record in run.records() if before.epoch <= record.epoch < after.epoch]
    repeated = max(0, max(record.step for record in ended) - after.resumed)
    seen_s = max((record.seen_s or 0.0 for record in ended), default=0.0)
    return Kill(rank, seen_s, after.started + after.first_step_s - at, repeated)


def resize(run: Supervised, found: Recovered, ranks: int, limit_s: float) -> None:
    """Asks for another number of ranks while the run trains, and waits until they do. Raises UserError."""
    before = run.wait_for("a checkpoint", run.trains, limit_s)
    asked = time.time()
    request = requests.put(run.files, "resize", ranks, None, "a check of reliability")
    until = time.monotonic() + limit_s

    def patience(_: float) -> None:
        if time.monotonic() > until:
            raise UserError(f"the run was not resized in {limit_s:g} s", run.tail())

    requests.wait_for_answer(run.files, request, patience)
    after = run.wait_for("training after a resize", lambda: run.trains(before.epoch), limit_s)
    found.resize_s, found.resized = after.started + after.first_step_s - asked, after.ranks
    found.same_ranks_until = after.resumed


def compare(context: Context, run: Supervised, found: Recovered, words: tuple[str, ...], limit_s: float) -> None:
    """Trains the same steps undisturbed on the original ranks, and puts both side by side. Raises UserError."""
    path = context.folder / "recovery/undisturbed"
    job = (*MAIN_JOB, "--run-dir", str(path), *words, f"training.max_steps={found.steps}")
    # on the same nodes: ranks that are divided among them otherwise add up in another order
    ended = launch.launch(context.ranks, job, limit_s, context.nodes, run.per_node)
    if not (path / "COMPLETE.json").exists():
        raise UserError(f"the undisturbed run of {found.steps} steps did not end in {limit_s:g} s", ended.tail())
    found.losses = read_metrics(run.files.run.metrics)["training/loss"]
    found.undisturbed = read_metrics(path / "metrics.h5")["training/loss"]
    for step in range(INTERVAL, found.same_ranks_until + 1, INTERVAL):
        ours, theirs = (folder / "checkpoints" / f"step-{step:08d}" for folder in (run.path, path))
        if ours.is_dir() and theirs.is_dir():
            found.compared += 1
            found.equal += _same_files(ours, theirs)


def _same_files(one: Path, other: Path) -> bool:
    """Whether the tensors of two checkpoints are the same bytes."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    same = names == sorted(path.name for path in other.glob("*.safetensors")) and names
    return bool(same) and all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def round_trips(folder: Path, times: int, words: tuple[str, ...]) -> int:
    """How often, of `times`, a state was saved and loaded into a new training step bit for bit; one step in between.

    Local: this process alone.
    """
    settings = load_settings("default", (*words, "hardware.zero_stage=0"))
    writer, step, good = CheckpointWriter(folder, 1), make_step(0, 1, settings), 0
    for _ in range(times):
        step.run()
        number = step.progress.step
        writer.submit(number, checkpoint_tensors(step), checkpoint_state(step, settings.data.source))
        writer.wait()
        back = make_step(0, 1, settings)
        restore(alone(), back, load_checkpoint(folder / f"step-{number:08d}"))
        good += state_of(step) == state_of(back)
        step = back
    writer.close()
    return good


def state_of(step: TrainingStep) -> list:
    """Hashes of weights and moments, and the counts: equal for equal states. Local."""
    vectors = [fingerprint(vector) for _, vector in step.strategy.vectors()]
    return [*vectors, step.progress, step.strategy.updates]


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))
