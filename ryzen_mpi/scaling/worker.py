"""`python -m ryzen_mpi.scaling.worker SPEC`: one launch of the real training step, measured.

Every number of ranks has the same threads a rank on as many cores, bound alike; warm-up is dropped; the measured part
goes from barrier to barrier; samples are counted where they are read, not where they are asked for. Rank 0 writes the
launch, whole or not at all; nothing else is believed of how it ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.scaling.assemble import Part, assemble
from ryzen_mpi.scaling.record import content
from ryzen_mpi.scaling.spec import Spec

if TYPE_CHECKING:
    import numpy as np

    from ryzen_mpi.cluster.world import World
    from ryzen_mpi.config import Settings
    from ryzen_mpi.data.source import TokenSource
    from ryzen_mpi.training.step import TrainingStep


class Counted:
    """A token source that keeps the indices it was read at for training."""

    def __init__(self, source: TokenSource) -> None:
        self._source, self._indices = source, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def sample(self, indices: np.ndarray) -> np.ndarray:
        self._indices.append(indices)
        return self._source.sample(indices)

    def take(self) -> list[np.ndarray]:
        """The indices since the last call, in the order they were read."""
        taken, self._indices = self._indices, []
        return taken


def run(spec: Spec, world: World, began: float) -> int:
    """The launch on this rank, begun at the epoch `began`. Collective. Returns the exit code. Raises UserError."""
    from ryzen_mpi.errors import UserError

    if world.size != spec.ranks:
        raise UserError(f"{spec.ranks} ranks were to be measured, and {world.size} started")
    settings = _settings(spec)
    cpus, domain = pin(world, settings, spec.threads)

    import torch

    from ryzen_mpi.bench.machine import machine
    from ryzen_mpi.comm.rendezvous import process_group
    from ryzen_mpi.scaling.caches import cache_share, clock_mhz

    torch.set_num_threads(spec.threads)
    fits(world, settings)
    with process_group(world, settings.distributed):
        step, source = build(world, settings, spec, domain)
        part = measure(step, source, spec)
        part.clock_mhz = clock_mhz(cpus)
    part.node, part.cpus, part.threads = world.node, cpus, torch.get_num_threads()
    placed = world.exchange.allgather([world.node, cpus])
    part.cache_bytes = cache_share(cpus, [each for node, each in placed if node == world.node])
    part.machine = {key: value for key, value in machine().items() if key != "load_before"}
    parts = [Part(**told) for told in world.exchange.allgather(asdict(part))]
    if world.is_leader:
        launch = assemble(spec, settings, world.nodes, (began, step.sampler.num_samples), parts)
        write_atomic(Path(spec.answer), json.dumps(content(launch), allow_nan=False) + "\n")
    return 0


def _settings(spec: Spec) -> Settings:
    """Those of the profile, with what makes every launch of a mode do the same work; epochs follow the source."""
    from ryzen_mpi.settings import load_settings

    words = (
        f"training.global_batch={spec.global_batch}",
        f"training.max_steps={spec.warmup_steps + spec.steps}",
        f"hardware.num_threads={spec.threads}",
        "hardware.bind=auto",
    )
    return load_settings(spec.profile, (*spec.overrides, *words))


def pin(world: World, settings: Settings, threads: int) -> tuple[list[int], int | None]:
    """Binds this rank to the first `threads` of its own cores; its CPUs and NUMA domain. Collective.

    So that one rank alone has no more of the machine than each of several. Raises UserError where it has fewer.
    """
    from ryzen_mpi.cluster import binding
    from ryzen_mpi.cluster.job import all_agree
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.cluster.topology import read_topology
    from ryzen_mpi.errors import UserError

    mine = bind_ranks(world, settings).mine
    cores = read_topology(mine.cpus).cores

    def narrow() -> list[int]:
        if len(cores) < threads:
            raise UserError(f"{len(cores)} cores for {threads} threads", "fewer threads: hardware.num_threads=N")
        cpus = tuple(sorted(cpu for core in cores[:threads] for cpu in core))
        binding.apply(replace(mine, cpus=cpus))
        return sorted(os.sched_getaffinity(0))  # what the kernel did, not what was asked

    return all_agree(world, narrow), mine.domain


def fits(world: World, settings: Settings) -> None:
    """Raises UserError on all ranks where the memory of some node is too small. Collective."""
    from ryzen_mpi.cluster.job import all_agree
    from ryzen_mpi.cluster.topology import read_memory
    from ryzen_mpi.training.plan import check_fits

    memory = read_memory()
    room = memory.available_bytes, memory.reason
    all_agree(world, lambda: check_fits(settings, world.local_size, world.nodes, *room))


def build(world: World, settings: Settings, spec: Spec, domain: int | None) -> tuple[TrainingStep, Counted]:
    """The step of the main job over a source that counts. Collective. Raises UserError."""
    from ryzen_mpi.cluster.allocator import keep_freed_memory
    from ryzen_mpi.cluster.job import all_agree, leader_decides
    from ryzen_mpi.data.choose import open_source, prepare_source
    from ryzen_mpi.training.choose import make_strategy
    from ryzen_mpi.training.step import TrainingStep

    folder = Path(spec.data)
    leader_decides(world, lambda: prepare_source(settings, folder, lambda line: None))
    source = Counted(all_agree(world, lambda: open_source(settings, folder)))
    epochs = -(-spec.global_batch * (spec.warmup_steps + spec.steps) // source.num_samples)
    training = settings.training.model_copy(update={"total_epochs": epochs})
    settings = settings.model_copy(update={"training": training})
    strategy = partial(make_strategy, domain=domain)
    step = TrainingStep(settings, source, world.rank, world.size, spec.global_batch, strategy)
    keep_freed_memory()
    return step, source


def measure(step: TrainingStep, source: Counted, spec: Spec) -> Part:
    """Warm-up, then the measured steps between two barriers. Collective."""
    import torch.distributed as dist

    from ryzen_mpi.bench.disturbance import waited_share
    from ryzen_mpi.cluster.kernel import read_threads

    part = Part()
    for _ in range(spec.warmup_steps):
        _step(step, part)
    source.take()
    skipped, part.communication_s = step.progress.skipped, 0.0
    dist.barrier()
    threads, part.began, start = read_threads(), time.time(), time.perf_counter()
    taken = []
    for _ in range(spec.steps):
        _step(step, part)
        taken.append(source.take())
    part.rank_s, part.ended = time.perf_counter() - start, time.time()
    dist.barrier()
    part.measured_s = time.perf_counter() - start
    part.indices = [[int(index) for indices in each for index in indices] for each in taken]
    waited = waited_share(threads, read_threads(), int(part.measured_s * 1e9))
    part.waited_share = waited if waited == waited else None
    part.skipped_steps = step.progress.skipped - skipped
    return part


def _step(step: TrainingStep, part: Part) -> None:
    outcome = step.run()
    part.communication_s += outcome.communication_s
    part.step_s.append(outcome.step_s)
    part.losses.append(outcome.loss)
    part.gradient_norms.append(outcome.gradient_norm)


def main() -> int:
    from ryzen_mpi.cluster.job import run_job

    began = time.time()
    spec = Spec.read(Path(sys.argv[1]))
    return run_job(lambda world: run(spec, world, began))


if __name__ == "__main__":
    sys.exit(main())
