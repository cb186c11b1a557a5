"""One launch as its rank 0 wrote it: what was trained, in what time, on which cores. The unit of all statistics.

What is read back is checked field by field and against the hash it was written with: figures are only made of launches
that are what some worker measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ryzen_mpi.sealing import digest

MODES = ("strong", "weak")
MOST_RANKS = 1 << 16
MOST_STEPS = 1 << 20
MOST_CPUS = 1 << 13
LARGEST = 1e300


@dataclass(frozen=True)
class Launch:
    """One launch of the real training step. Seconds are of monotonic clocks, epochs are seconds since 1970-01-01 UTC.

    Attributes:
        number: order of launching, over all of a folder, failed ones included.
        repeat: launches of one repeat are compared with one another.
        mode: "strong" (fixed global batch) or "weak" (fixed batch a rank).
        ranks, nodes: how many there were.
        threads, cpus, rank_nodes: of each rank: threads it computes with, logical CPUs it runs on, index of its node.
        began, ended: of the whole launch on rank 0, start-up included; epochs.
        steps, warmup_steps: measured, and dropped before them.
        global_batch: samples a step.
        samples: of the measured part, counted from the indices that were trained.
        indices_sha256: of the measured part's indices in the order of the stream.
        rank_samples, rank_indices_sha256: the same of each rank.
        duplicates: indices trained more than once in an epoch.
        skipped_steps: whose update was left out because something was not finite.
        measured_s: barrier to barrier, of the slowest rank.
        throughput: samples / measured_s.
        rank_s: from the barrier to the end of the rank's last step.
        rank_computation_s, rank_communication_s: what it is made of; blocked in collectives is communication.
        rank_began, rank_ended: the measured part's, epochs.
        step_s: of the slowest rank, each step, warm-up first.
        losses, gradient_norms: each step, warm-up first; over the global batch, before clipping.
        waited_share: of the measured time some rank waited for a core another process had; None where not known.
        clock_mhz: mean of the ranks' cores at the end of the measured part; None where the machine does not tell.
        cache_bytes: level of cache ("2", "3") -> bytes of it for one rank, shared caches divided; the least of all.
        working_set_bytes: what a rank goes through in a step, reckoned: weights, gradients, moments, activations.
        dtype, compression: of the computation, and of gradients between nodes.
        profile, overrides: settings as they were asked for.
        settings_sha256: of the resolved settings, without what differs by design between numbers of ranks.
        machine: processor, memory and software of rank 0's node; rank_machines: hash of it for every rank.
        sha256: of all of this.
    """

    number: int
    repeat: int
    mode: str
    ranks: int
    nodes: int
    threads: tuple[int, ...]
    cpus: tuple[tuple[int, ...], ...]
    rank_nodes: tuple[int, ...]
    began: float
    ended: float
    steps: int
    warmup_steps: int
    global_batch: int
    samples: int
    indices_sha256: str
    rank_samples: tuple[int, ...]
    rank_indices_sha256: tuple[str, ...]
    duplicates: int
    skipped_steps: int
    measured_s: float
    throughput: float
    rank_s: tuple[float, ...]
    rank_computation_s: tuple[float, ...]
    rank_communication_s: tuple[float, ...]
    rank_began: tuple[float, ...]
    rank_ended: tuple[float, ...]
    step_s: tuple[float, ...]
    losses: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    waited_share: float | None
    clock_mhz: float | None
    cache_bytes: Mapping[str, int]
    working_set_bytes: int
    dtype: str
    compression: str
    profile: str
    overrides: tuple[str, ...]
    settings_sha256: str
    machine: Mapping[str, Any]
    rank_machines: tuple[str, ...]
    sha256: str = ""

    @property
    def name(self) -> str:
        """For people: "launch 7 (strong, 2 ranks)"."""
        return f"launch {self.number} ({self.mode}, {self.ranks} rank{'s' * (self.ranks > 1)})"

    @property
    def oversubscribed(self) -> bool:
        """Whether ranks share cores, or have more threads than cores."""
        taken = [(node, cpu) for node, cpus in zip(self.rank_nodes, self.cpus, strict=True) for cpu in cpus]
        crowded = any(threads > len(cpus) for threads, cpus in zip(self.threads, self.cpus, strict=True))
        return crowded or len(set(taken)) < len(taken)


def content(launch: Launch) -> dict[str, Any]:
    """`launch` as JSON values, sealed with their hash; a number that is none becomes null. Pure."""
    bare = _plain(asdict(replace(launch, sha256="")))
    return bare | {"sha256": digest(bare)}


def parse(values: Any) -> Launch:
    """The launch that `content` made `values` from. Pure. Raises ValueError with what is wrong in words.

    The hash is not looked at: `plausible` does, and says more than that a file is bad.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"it is a {type(values).__name__}, not the fields of a launch")
    names = {field.name for field in fields(Launch)}
    if missing := sorted(names - set(values)):
        raise ValueError(f"it has no {missing[0]}")
    if unknown := sorted(map(str, set(values) - names)):
        raise ValueError(f"it has {unknown[0][:40]}, which a launch has not")
    launch = Launch(**{name: _READERS[name](name, values[name]) for name in names})
    for field in fields(Launch):
        value = getattr(launch, field.name)
        if field.name in _OF_RANKS and len(value) != launch.ranks:
            raise ValueError(f"{field.name} has {len(value)} values for {launch.ranks} ranks")
    for name in ("step_s", "losses", "gradient_norms"):
        if len(getattr(launch, name)) != launch.warmup_steps + launch.steps:
            raise ValueError(f"{name} has {len(getattr(launch, name))} values, not one for every step")
    return launch


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _count(name: str, value: Any, least: int = 0, most: int = 1 << 62) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}={_short(value)} is not a number of things")
    return value


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise ValueError(f"{name}={_short(value)} is not a finite number")
    return float(value)


def _maybe(name: str, value: Any) -> float | None:
    return None if value is None else _real(name, value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        raise ValueError(f"{name}={_short(value)} is not a text")
    return value


def _mode(name: str, value: Any) -> str:
    if value not in MODES:
        raise ValueError(f"{name}={_short(value)} is neither of {', '.join(MODES)}")
    return value


def _several(read: Callable[[str, Any], Any], most: int) -> Callable[[str, Any], tuple[Any, ...]]:
    def reader(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > most:
            raise ValueError(f"{name}={_short(value)} is not a list of at most {most}")
        return tuple(read(name, item) for item in value)

    return reader


def _facts(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or len(value) > 64:
        raise ValueError(f"{name}={_short(value)} is not a set of facts")
    return dict(value)


def _sizes(name: str, value: Any) -> Mapping[str, int]:
    if not all(str(key).isdecimal() and len(str(key)) < 3 for key in _facts(name, value)):
        raise ValueError(f"{name} is not by levels of cache")
    return {str(key): _count(name, size) for key, size in value.items()}


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "..."


def _from_one(name: str, value: Any) -> int:
    return _count(name, value, 1, MOST_RANKS)


_REAL_LISTS = ("rank_s", "rank_computation_s", "rank_communication_s", "rank_began", "rank_ended")
_OF_RANKS = {*_REAL_LISTS, "threads", "cpus", "rank_nodes", "rank_samples", "rank_indices_sha256", "rank_machines"}
_READERS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("ranks", "nodes"), _from_one),
    **dict.fromkeys(("number", "repeat", "global_batch", "samples", "duplicates"), _count),
    **dict.fromkeys(("skipped_steps", "working_set_bytes"), _count),
    **dict.fromkeys(("steps", "warmup_steps"), lambda name, value: _count(name, value, 0, MOST_STEPS)),
    **dict.fromkeys(("began", "ended", "measured_s", "throughput"), _real),
    **dict.fromkeys(("waited_share", "clock_mhz"), _maybe),
    **dict.fromkeys(_REAL_LISTS, _several(_real, MOST_RANKS)),
    **dict.fromkeys(("step_s", "losses", "gradient_norms"), _several(_real, MOST_STEPS)),
    **dict.fromkeys(("threads", "rank_nodes", "rank_samples"), _several(_count, MOST_RANKS)),
    **dict.fromkeys(("rank_indices_sha256", "rank_machines"), _several(_text, MOST_RANKS)),
    **dict.fromkeys(("indices_sha256", "dtype", "compression", "profile", "settings_sha256", "sha256"), _text),
    "overrides": _several(_text, 256),
    "cpus": _several(_several(_count, MOST_CPUS), MOST_RANKS),
    "mode": _mode,
    "cache_bytes": _sizes,
    "machine": _facts,
}
