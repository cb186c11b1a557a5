"""`python -m ryzen_mpi.scaling.worker SPEC`: one launch of the real training step, measured.

Every number of ranks has the same threads a rank on as many cores, bound alike; warm-up is dropped; the measured part
goes from barrier to barrier; samples are counted where they are read, not where they are asked for. Rank 0 writes the
launch, whole or not at all; nothing else is believed of how it ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.scaling.record import Launch, content, digest

if TYPE_CHECKING:
    import numpy as np

    from ryzen_mpi.cluster.world import World
    from ryzen_mpi.config import Settings
    from ryzen_mpi.data.source import TokenSource
    from ryzen_mpi.training.step import TrainingStep


@dataclass(frozen=True)
class Spec:
    """What the driver tells a launch; JSON.

    Attributes:
        number, repeat, mode, ranks: see `record.Launch`.
        global_batch, steps, warmup_steps, threads: what to do; threads a rank, on as many cores.
        profile, overrides: the settings.
        data: folder of the prepared corpus, the same for all launches.
        answer: file to write the launch to.
    """

    number: int
    repeat: int
    mode: str
    ranks: int
    global_batch: int
    steps: int
    warmup_steps: int
    threads: int
    profile: str
    overrides: tuple[str, ...]
    data: str
    answer: str

    def write(self, path: Path) -> None:
        write_atomic(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Spec:
        values = json.loads(path.read_text())
        return cls(**values | {"overrides": tuple(values["overrides"])})


class Counted:
    """A token source that keeps the indices it was read at for training."""

    def __init__(self, source: TokenSource) -> None:
        self._source, self._indices = source, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def sample(self, indices: np.ndarray) -> np.ndarray:
        self._indices.append(indices)
        return self._source.sample(indices)

    def take(self) -> list[int]:
        """The indices since the last call, in the order they were read."""
        taken, self._indices = self._indices, []
        return [int(index) for indices in taken for index in indices]


@dataclass
class Part:
    """What one rank has to tell of its measured part; JSON-able through `asdict`. Indices are a list a step."""

    began: float = 0.0
    ended: float = 0.0
    rank_s: float = 0.0
    measured_s: float = 0.0
    communication_s: float = 0.0
    skipped_steps: int = 0
    waited_share: float | None = None
    indices: list[list[int]] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def run(spec: Spec, world: World) -> int:
    """The launch on this rank. Collective. Returns the exit code. Raises UserError."""
    from ryzen_mpi.errors import UserError

    began = time.time()
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
        clock = clock_mhz(cpus)
    facts = {key: value for key, value in machine().items() if key != "load_before"}
    placed = world.exchange.allgather([world.node, cpus])
    caches = cache_share(cpus, [each for node, each in placed if node == world.node])
    told = world.exchange.allgather([asdict(part), world.node, cpus, torch.get_num_threads(), clock, caches, facts])
    if world.is_leader:
        launch = assemble(spec, settings, world.nodes, (began, step.sampler.num_samples), told)
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

    from ryzen_mpi.bench.disturbance import read_threads, waited_share

    part = Part()
    for _ in range(spec.warmup_steps):
        _step(step, part)
    source.take()
    skipped, part.communication_s = step.progress.skipped, 0.0
    dist.barrier()
    threads, part.began, start = read_threads(), time.time(), time.perf_counter()
    for _ in range(spec.steps):
        _step(step, part)
        part.indices.append(source.take())
    part.rank_s, part.ended = time.perf_counter() - start, time.time()
    dist.barrier()
    part.measured_s = time.perf_counter() - start
    waited = waited_share(threads, read_threads(), int(part.measured_s * 1e9))
    part.waited_share = waited if waited == waited else None
    part.skipped_steps = step.progress.skipped - skipped
    return part


def _step(step: TrainingStep, part: Part) -> None:
    outcome = step.run()
    part.communication_s += outcome.communication_s
    part.step_s.append(outcome.step_s)
    part.losses.append(outcome.loss)


def assemble(spec: Spec, settings: Settings, nodes: int, known: tuple[float, int], told: list[list[Any]]) -> Launch:
    """The launch from what every rank told; `known`: when it began, and the samples of an epoch. Rank 0."""
    from ryzen_mpi.scaling.working_set import working_set_bytes

    parts = [Part(**each[0]) for each in told]
    stream = [
        index for step in zip(*(part.indices for part in parts), strict=True) for share in step for index in share
    ]
    own = [[index for step in part.indices for index in step] for part in parts]
    measured_s = max(part.measured_s for part in parts)
    blocked = [min(part.communication_s, part.rank_s) for part in parts]
    waited = [part.waited_share for part in parts]
    clocks, caches = [each[4] for each in told], [each[5] for each in told]
    levels = set.intersection(*(set(each) for each in caches))
    return Launch(
        number=spec.number,
        repeat=spec.repeat,
        mode=spec.mode,
        ranks=spec.ranks,
        nodes=nodes,
        threads=tuple(each[3] for each in told),
        cpus=tuple(tuple(each[2]) for each in told),
        rank_nodes=tuple(each[1] for each in told),
        began=known[0],
        ended=time.time(),
        steps=spec.steps,
        warmup_steps=spec.warmup_steps,
        global_batch=spec.global_batch,
        samples=len(stream),
        indices_sha256=_hash(stream),
        rank_samples=tuple(map(len, own)),
        rank_indices_sha256=tuple(map(_hash, own)),
        duplicates=duplicates(stream, spec.warmup_steps * spec.global_batch, known[1]),
        skipped_steps=max(part.skipped_steps for part in parts),
        measured_s=measured_s,
        throughput=len(stream) / measured_s,
        rank_s=tuple(part.rank_s for part in parts),
        rank_computation_s=tuple(part.rank_s - s for part, s in zip(parts, blocked, strict=True)),
        rank_communication_s=tuple(blocked),
        rank_began=tuple(part.began for part in parts),
        rank_ended=tuple(part.ended for part in parts),
        step_s=tuple(map(max, zip(*(part.step_s for part in parts), strict=True))),
        losses=tuple(parts[0].losses),
        waited_share=None if None in waited else max(waited),
        clock_mhz=None if None in clocks else sum(clocks) / len(clocks),
        cache_bytes={level: min(each[level] for each in caches) for level in sorted(levels)},
        working_set_bytes=working_set_bytes(settings, spec.ranks, nodes, spec.global_batch),
        dtype=settings.hardware.dtype,
        profile=spec.profile,
        overrides=spec.overrides,
        settings_sha256=settings_hash(settings),
        machine=told[0][6],
        rank_machines=tuple(digest(each[6]) for each in told),
    )


def duplicates(stream: list[int], position: int, num_samples: int) -> int:
    """Samples of a stretch of the stream from `position` that an epoch had before. Pure."""
    seen = {((position + place) // num_samples, index) for place, index in enumerate(stream)}
    return len(stream) - len(seen)


def settings_hash(settings: Settings) -> str:
    """Of what must be the same in all launches: all but the global batch, which weak scaling lets grow. Pure."""
    values = settings.model_dump(mode="json")
    values["training"].pop("global_batch")
    return digest(values)


def _hash(indices: list[int]) -> str:
    return hashlib.sha256(json.dumps(indices).encode()).hexdigest()


def main() -> int:
    from ryzen_mpi.cluster.job import run_job

    spec = Spec.read(Path(sys.argv[1]))
    return run_job(lambda world: run(spec, world))


if __name__ == "__main__":
    sys.exit(main())
