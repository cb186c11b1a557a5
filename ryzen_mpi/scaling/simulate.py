"""What P ranks would do: throughput, efficiency, communication, memory, saving and the best strategy, with bands.

A step of P ranks takes as long as its slowest rank computes, and what the ranks then do together:

    T(P) = launch * [ t(m) * load * sharing * (1 + contention * others) * slowest(P) + node + between + agree + rest ]

t(m) is the measured step of one rank on m samples, without gains from smaller pieces; `load` the ranks on the fullest
core; `others` the other ranks of the node that compute meanwhile; `slowest` from the measured stragglers, over cores
where ranks take turns on them; `node` and `between` the all-reduce inside and between nodes. docs/simulator.md tells
what each term rests on and leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling import stragglers
from ryzen_mpi.scaling.collective import OURS, Link, agreement, between_nodes, flat_ring
from ryzen_mpi.scaling.draws import Values
from ryzen_mpi.training.memory import need
from ryzen_mpi.training.plan import work

ROW_BYTES = 96
"""Of a rank in the agreement (training/agreement.py: twelve numbers)."""
BAND = (2.5, 97.5)


@dataclass(frozen=True)
class Cluster:
    """Where the ranks would run.

    Attributes:
        per_node: ranks of a full node. cores: of a node. threads: of a rank.
        memory_bytes: of a node.
        link: between nodes; None where nothing is known of it.
        floating: ranks are not bound to cores (hardware.bind=none).
        one_machine: the nodes are names only and share one machine's cores, as in the test lab.
    """

    per_node: int
    cores: int
    threads: int
    memory_bytes: int
    link: Link | None = None
    floating: bool = False
    one_machine: bool = False

    def nodes(self, ranks: int) -> int:
        return -(-ranks // self.per_node)

    def fullest(self, ranks: int) -> int:
        """Ranks of the node that has most."""
        return min(ranks, self.per_node)

    def together(self, ranks: int) -> int:
        """Ranks that share the cores of the fullest machine."""
        return ranks if self.one_machine else self.fullest(ranks)

    def load(self, ranks: int, drift: float = 0.0) -> float:
        """Ranks that take turns on the fullest core, as cluster/binding.py divides cores; 1 where each has its own.

        `drift`: of ranks that are not bound, 0 where the kernel moves them so that all get the same, 1 where never.
        """
        there = self.together(ranks)
        fullest = float(math.ceil(there / max(1, self.cores // self.threads)))
        if not self.floating:
            return fullest
        fair = max(1.0, there * self.threads / self.cores)
        return fair + drift * max(0.0, fullest - fair)

    def turns(self, ranks: int) -> tuple[int, int]:
        """(ranks that take turns on a fullest core, such cores); where each rank has its own, (1, `ranks`).

        Ranks that are not bound take turns on all the cores they float over, which are waited for as one.
        """
        if self.load(ranks) == 1:
            return 1, ranks
        machines = 1 if self.one_machine else self.nodes(ranks)
        there = self.together(ranks)
        if self.floating:
            return there, machines
        cores = max(1, self.cores // self.threads)
        fullest = math.ceil(there / cores)
        return fullest, machines * (there - (fullest - 1) * cores)

    def others(self, ranks: int, load: float) -> float:
        """Other ranks that compute on the machine meanwhile, in the mean over a step."""
        there = self.together(ranks)
        return max(0.0, (there - load) / load)


@dataclass(frozen=True)
class Step:
    """Seconds of a step of the slowest rank: the usual computation, what stragglers add, and what is done together."""

    compute_s: float
    wait_s: float
    node_s: float
    between_s: float
    rest_s: float

    @property
    def together_s(self) -> float:
        return self.node_s + self.between_s + self.rest_s

    @property
    def seconds(self) -> float:
        return self.compute_s + self.wait_s + self.together_s


def share_of(settings: Settings, ranks: int) -> int:
    """Samples of the rank that has most. Raises UserError where some would have none."""
    batch = settings.global_batch(ranks)
    if batch < ranks:
        raise UserError(f"training.global_batch={batch} leaves some of {ranks} ranks without a sample", f">= {ranks}")
    return -(-batch // ranks)


def compute_s(values: Values, samples: int, batch_size: int) -> float:
    """Usual seconds of a step of one rank alone on `samples`. Pure.

    Between sizes measured on a straight line, beyond them on that of the last two; never less than in proportion to a
    whole micro-batch: what caches might give is not granted.
    """
    sizes, seconds = np.array(values.shares, float), np.array(values.step_s)
    if len(sizes) == 1:
        return float(seconds[0] * samples / sizes[0])
    if samples > sizes[-1]:
        slope = max(0.0, (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2]))
        return max(float(seconds[-1] + slope * (samples - sizes[-1])), float(seconds[-1]))
    if samples < sizes[0]:
        return float(seconds[0] * samples / sizes[0]) if sizes[0] <= 1 else _below(sizes, seconds, samples)
    least = float(np.interp(batch_size, sizes, seconds)) / batch_size * samples if samples < batch_size else 0.0
    return max(float(np.interp(samples, sizes, seconds)), least)


def _below(sizes: np.ndarray, seconds: np.ndarray, samples: int) -> float:
    """Below the smallest size measured: on the line of the first two, not below proportion."""
    slope = max(0.0, (seconds[1] - seconds[0]) / (sizes[1] - sizes[0]))
    return max(float(seconds[0] - slope * (sizes[0] - samples)), float(seconds[0] * samples / sizes[0]))


def step(values: Values, settings: Settings, cluster: Cluster, ranks: int, algorithm: str = OURS) -> Step:
    """The mean step of `ranks` ranks by one set of parameters. Pure. Raises UserError where the network is unknown."""
    nodes, load = cluster.nodes(ranks), cluster.load(ranks, values.drift)
    usual = compute_s(values, share_of(settings, ranks), settings.training.batch_size)
    if settings.hardware.zero_stage:  # each rank updates its shard
        usual = max(usual - values.update_s * (1 - 1 / ranks), 0.1 * usual)
    usual *= load * (values.sharing if load > 1 else 1.0) * (1 + values.contention * cluster.others(ranks, load))
    pace = slowest(values, *cluster.turns(ranks))
    node_s, between_s = reduction(values, settings, cluster, ranks, algorithm)
    agree_s = agreement(ranks, nodes, ROW_BYTES, cluster.link) if nodes > 1 and cluster.link else 0.0
    rest_s = 0.0 if ranks == 1 else values.overhead_s if load == 1 else values.overhead_shared_s * load / 2
    parts = (usual, usual * (pace - 1), node_s, between_s, rest_s + agree_s)
    return Step(*(values.launch * part for part in parts))


def slowest(values: Values, in_turn: int, cores: int) -> float:
    """Expected time of the slowest of `cores` cores with `in_turn` ranks each, in usual times. Pure."""
    curve = stragglers.in_turn(values.curve, stragglers.independent(in_turn, values.theta))
    return stragglers.slowest(curve, stragglers.independent(cores, values.theta))


def reduction(
    values: Values, settings: Settings, cluster: Cluster, ranks: int, algorithm: str = OURS
) -> tuple[float, float]:
    """Seconds of the gradient's sum inside and between nodes; with ZeRO, of the weights that come back too. Pure."""
    nodes, most, load = cluster.nodes(ranks), cluster.fullest(ranks), cluster.load(ranks, values.drift)
    size, within, sent = traffic(settings, most, nodes)
    if nodes > 1 and cluster.link is None:
        raise UserError("nothing is known of the network between nodes", "--network LATENCY_US,GBIT")
    if settings.distributed.backend == "gloo":  # one ring over all, whatever node they are on
        link = cluster.link if nodes > 1 else Link(values.node_latency_s / 2, values.node_s_per_byte * load)
        seconds = flat_ring(size, ranks, link)
        return (seconds, 0.0) if nodes == 1 else (0.0, seconds)
    node_s = 0.0
    if most > 1:
        width = load if load > 1 else 1 + values.bus * (most / 2 - 1)
        node_s = within * (values.node_latency_s * (most - 1) + values.node_s_per_byte * size * width)
    between_s = between_nodes(algorithm, sent, nodes, cluster.link)
    if settings.distributed.compression != "none" and nodes > 1:
        between_s += values.compression.get(settings.distributed.compression, 0.0) * size / most
    return node_s, between_s


@lru_cache(maxsize=256)
def traffic(settings: Settings, most: int, nodes: int) -> tuple[int, float, float]:
    """Bytes of the gradient; memory traffic of a node over that of stage 0; and the bytes whose all-reduce sends as
    much between nodes as the strategy does."""
    plain = changed(settings, {"hardware.zero_stage": 0, "distributed.compression": "none"})
    reference, planned = work(plain, most, 1), work(settings, most, nodes)
    sent = planned.between_bytes * nodes / (2 * (nodes - 1)) if nodes > 1 else 0.0
    return reference.within_bytes // (2 * most), planned.within_bytes / reference.within_bytes, sent


@dataclass(frozen=True)
class Band:
    """An estimate with the bounds of its 95 % band."""

    value: float
    low: float
    high: float
    unit: str


@dataclass(frozen=True)
class Prediction:
    """Of one number of ranks; `parts`: shares of the step by what it is spent on."""

    ranks: int
    nodes: int
    global_batch: int
    step_s: Band
    throughput: Band
    efficiency: Band
    communication_share: Band
    parts: dict[str, float]
    rank_bytes: int
    node_bytes: int
    fits: bool
    notes: tuple[str, ...] = ()


def band(values: Sequence[float], unit: str) -> Band:
    """Of all draws; the first is the estimate."""
    low, high = np.percentile(values, BAND)
    return Band(float(values[0]), float(min(low, values[0])), float(max(high, values[0])), unit)


def predict(
    draws: Sequence[Values], settings: Settings, cluster: Cluster, ranks: int, algorithm: str = OURS
) -> Prediction:
    """What `ranks` ranks would do. Pure: the same at every call. Raises UserError."""
    steps = [step(values, settings, cluster, ranks, algorithm) for values in draws]
    seconds = np.array([one.seconds for one in steps])
    batch, most = settings.global_batch(ranks), cluster.fullest(ranks)
    together = np.array([one.together_s for one in steps]) / seconds
    wanted = need(settings, most, cluster.nodes(ranks))
    notes = []
    if cluster.load(ranks) > 1:
        notes.append(f"{cluster.load(ranks):g} ranks take turns on a core")
    first = steps[0]
    parts = {"compute": first.compute_s, "stragglers": first.wait_s, "inside nodes": first.node_s}
    parts |= {"between nodes": first.between_s, "agreement and rest": first.rest_s}
    return Prediction(
        ranks,
        cluster.nodes(ranks),
        batch,
        band(seconds, "s"),
        band(batch / seconds, "samples/s"),
        band(_efficiencies(draws, settings, seconds, ranks), "1"),
        band(together, "1"),
        {name: part / first.seconds for name, part in parts.items()},
        wanted.rank,
        wanted.node,
        wanted.node <= cluster.memory_bytes,
        tuple(notes),
    )


def _efficiencies(draws: Sequence[Values], settings: Settings, seconds: np.ndarray, ranks: int) -> np.ndarray:
    """T1 / (P T_P) of the same global batch where one is set (strong), T1 / T_P of the same share a rank otherwise."""
    strong = settings.training.global_batch is not None
    samples = settings.global_batch(1) if strong else share_of(settings, ranks)
    base = [
        values.launch * compute_s(values, samples, settings.training.batch_size) * stragglers.slowest(values.curve, 1.0)
        for values in draws
    ]
    return np.array(base) / seconds / (ranks if strong else 1)


def changed(settings: Settings, change: dict[str, Any]) -> Settings:
    """`settings` with `section.key` values replaced. Pure."""
    tree = settings.model_dump()
    for key, value in change.items():
        section, _, name = key.partition(".")
        tree[section][name] = value
    return Settings.model_validate(tree)
