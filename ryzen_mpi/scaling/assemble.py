"""One launch out of what each of its ranks tells."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ryzen_mpi.scaling.record import Launch
from ryzen_mpi.scaling.spec import Spec
from ryzen_mpi.scaling.working_set import working_set_bytes
from ryzen_mpi.sealing import digest

if TYPE_CHECKING:
    from ryzen_mpi.config import Settings


@dataclass
class Part:
    """What one rank has to tell; JSON-able through `asdict`.

    Attributes:
        began, ended, rank_s, measured_s, communication_s: of the measured part, as in `record.Launch`.
        skipped_steps, waited_share, indices: of the measured part; indices are a list a step.
        step_s, losses, gradient_norms: of every step, warm-up first.
        node, cpus, threads, clock_mhz, cache_bytes, machine: where it ran.
    """

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
    gradient_norms: list[float] = field(default_factory=list)
    node: int = 0
    cpus: list[int] = field(default_factory=list)
    threads: int = 0
    clock_mhz: float | None = None
    cache_bytes: dict[str, int] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


def assemble(spec: Spec, settings: Settings, nodes: int, known: tuple[float, int], parts: list[Part]) -> Launch:
    """The launch from what every rank tells; `known`: when it began, and the samples of an epoch. Rank 0."""
    steps = zip(*(part.indices for part in parts), strict=True)
    stream = [index for step in steps for share in step for index in share]
    measured_s = max(part.measured_s for part in parts)
    waited, clocks = [part.waited_share for part in parts], [part.clock_mhz for part in parts]
    levels = set.intersection(*(set(part.cache_bytes) for part in parts))
    return Launch(
        number=spec.number,
        repeat=spec.repeat,
        mode=spec.mode,
        ranks=spec.ranks,
        nodes=nodes,
        began=known[0],
        ended=time.time(),
        steps=spec.steps,
        warmup_steps=spec.warmup_steps,
        global_batch=spec.global_batch,
        samples=len(stream),
        indices_sha256=_hash(stream),
        duplicates=duplicates(stream, spec.warmup_steps * spec.global_batch, known[1]),
        skipped_steps=max(part.skipped_steps for part in parts),
        measured_s=measured_s,
        throughput=len(stream) / measured_s,
        step_s=tuple(map(max, zip(*(part.step_s for part in parts), strict=True))),
        losses=tuple(parts[0].losses),
        gradient_norms=tuple(parts[0].gradient_norms),
        waited_share=None if None in waited else max(waited),
        clock_mhz=None if None in clocks else sum(clocks) / len(clocks),
        cache_bytes={level: min(part.cache_bytes[level] for part in parts) for level in sorted(levels)},
        working_set_bytes=working_set_bytes(settings, spec.ranks, nodes, spec.global_batch),
        dtype=settings.hardware.dtype,
        compression=settings.distributed.compression,
        profile=spec.profile,
        overrides=spec.overrides,
        settings_sha256=settings_hash(settings),
        machine=parts[0].machine,
        **_by_rank(parts),
    )


def _by_rank(parts: list[Part]) -> dict[str, tuple[Any, ...]]:
    """The fields of a launch that have a value a rank."""
    own = [[index for step in part.indices for index in step] for part in parts]
    blocked = [min(part.communication_s, part.rank_s) for part in parts]
    return {
        "threads": tuple(part.threads for part in parts),
        "cpus": tuple(tuple(part.cpus) for part in parts),
        "rank_nodes": tuple(part.node for part in parts),
        "rank_samples": tuple(map(len, own)),
        "rank_indices_sha256": tuple(map(_hash, own)),
        "rank_s": tuple(part.rank_s for part in parts),
        "rank_computation_s": tuple(part.rank_s - s for part, s in zip(parts, blocked, strict=True)),
        "rank_communication_s": tuple(blocked),
        "rank_began": tuple(part.began for part in parts),
        "rank_ended": tuple(part.ended for part in parts),
        "rank_machines": tuple(digest(part.machine) for part in parts),
    }


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
