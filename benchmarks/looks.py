"""Looks at made-up healthy runs: what false alarms of the monitor's rules are counted on.

What is healthy is taken from real runs: losses that fall steeply, then slowly, with noise of heavier tails than normal,
a hump while the learning rate warms up; gradient norms that drift; step times with a heavy tail, saves and evaluations
in between, bursts of other work on machines whose ranks share cores; gauges that jitter, that differ between ranks of a
node because each looks when it likes, and that may be missing altogether.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ryzen_mpi.cluster.gauges import NAMES
from ryzen_mpi.training.look import Look

SAMPLE_S = 5.0
SAVE, EVALUATE, COMPARE = 200, 250, 100


@dataclass(frozen=True)
class Scene:
    """One made-up run; whatever is not given here is drawn from `seed`."""

    seed: int
    ranks: int = 4
    steps: int = 2000
    nodes: int = 2
    step_s: float = 0.3
    loss_noise: float = 0.03
    norm_noise: float = 0.15
    own_noise: float = 0.15
    time_noise: float = 0.05
    busy: float = 0.0
    """Share of the time in which other work disturbs some rank's core."""
    sensors: bool = True


def scenes(count: int, steps: int) -> Iterator[Scene]:
    """Healthy runs of many kinds, always the same ones."""
    random = np.random.default_rng(7)
    for seed in range(count):
        ranks = int(random.choice([1, 2, 3, 4, 8, 16, 32]))
        yield Scene(
            seed,
            ranks,
            steps,
            nodes=int(random.choice([n for n in (1, 2, 4) if n <= ranks])),
            step_s=float(np.exp(random.uniform(math.log(0.005), math.log(10.0)))),
            loss_noise=float(np.exp(random.uniform(math.log(0.002), math.log(0.1)))),
            norm_noise=float(random.uniform(0.03, 0.3)),
            own_noise=float(random.uniform(0.03, 0.3)),
            time_noise=float(np.exp(random.uniform(math.log(0.01), math.log(0.3)))),
            busy=float(random.choice([0.0, 0.05, 0.3])),
            sensors=bool(random.random() < 0.7),
        )


def healthy(scene: Scene) -> list[Look]:
    """The looks of a healthy run."""
    random = np.random.default_rng([scene.seed, 11])
    losses, norms, rates = curves(scene, random)
    times, waits, clock = durations(scene, random)
    own = norms[:, None] * np.exp(scene.own_noise * _tailed(random, (scene.steps, scene.ranks)))
    own_loss = losses[:, None] + 2 * scene.loss_noise * random.standard_normal((scene.steps, scene.ranks))
    hosts = tuple(f"node{rank * scene.nodes // scene.ranks + 1}" for rank in range(scene.ranks))
    gauges = Gauged(scene, random, hosts)
    ones, unknown = np.ones(scene.ranks), np.full(scene.ranks, np.nan)
    return [
        Look(
            step=at + 1,
            position=at * 64,
            clock_s=float(clock[at]),
            loss=float(losses[at]),
            gradient_norm=float(norms[at]),
            learning_rate=float(rates[at]),
            finite=ones,
            rank_loss=own_loss[at],
            rank_gradient_norm=own[at] if scene.ranks > 1 else norms[at : at + 1],
            rank_step_s=times[at - 1] if at else unknown,
            rank_communication_s=waits[at - 1] if at else unknown,
            gauges=gauges.at(float(clock[at])) | {"checkpoint_step": np.full(scene.ranks, at // SAVE * SAVE or -1.0)},
            hosts=hosts,
            weights=[hash((scene.seed, at)) & (2**64 - 1)] * scene.ranks if at % COMPARE == 0 and at else None,
            compared=at,
        )
        for at in range(scene.steps)
    ]


def _tailed(random: np.random.Generator, shape) -> np.ndarray:
    """Noise of deviation 1 with heavier tails than normal: Student's t of 7 degrees (kurtosis 5)."""
    return random.standard_t(7, shape) / math.sqrt(7 / 5)


def curves(scene: Scene, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[steps] losses, gradient norms and learning rates."""
    at = np.arange(scene.steps)
    warmup = int(random.choice([0, 20, 100, 300]))
    rates = np.minimum(1, (at + 1) / max(1, warmup)) * (0.55 + 0.45 * np.cos(np.pi * at / scene.steps)) * 1e-3
    first, last = random.uniform(3.0, 11.0), random.uniform(0.5, 3.0)
    fast, slow = random.uniform(10, 80) + warmup / 2, random.uniform(500, 3000)
    share = random.uniform(0.5, 0.9)
    level = last + (first - last) * (share * np.exp(-at / fast) + (1 - share) * np.exp(-at / slow))
    level += 0.03 * level * np.exp(-(((at - warmup) / max(10.0, warmup / 3)) ** 2))  # the hump
    hard = 1 + random.exponential(0.01, scene.steps) * (random.random(scene.steps) < 0.02)  # harder batches
    losses = level * hard + scene.loss_noise * _tailed(random, scene.steps)
    trend = random.uniform(0.3, 3.0) * (1 + 3 * np.exp(-at / fast))
    trend *= np.exp(0.3 * np.sin(at / random.uniform(100, 900)))
    slow_noise = np.zeros(scene.steps)
    for step in range(1, scene.steps):  # norms wander
        slow_noise[step] = 0.99 * slow_noise[step - 1] + 0.02 * random.standard_normal()
    norms = trend * np.exp(slow_noise + scene.norm_noise * _tailed(random, scene.steps))
    sharp = random.random(scene.steps) < 0.003 + 0.02 * np.exp(-(((at - warmup) / 30) ** 2))
    norms *= 1 + sharp * random.uniform(1, 8, scene.steps)  # seen where the learning rate is highest; the loss stays
    return np.maximum(losses, 1e-3), norms, rates


def durations(scene: Scene, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[steps, ranks] seconds of each step and of those blocked in collectives, and [steps] rank 0's clock before it."""
    shape = (scene.steps, scene.ranks)
    usual = scene.step_s * (1 + random.uniform(-0.05, 0.05, scene.ranks))
    computed = usual * np.exp(scene.time_noise * _tailed(random, shape))
    stalls = random.random(shape) < 0.005
    computed *= 1 + stalls * np.minimum(30, random.pareto(1.5, shape))
    begin = np.cumsum(computed.max(axis=1))
    disturbed = np.ones(shape)
    for start, end, rank, slower in _bursts(scene, random, float(begin[-1])):
        hit = slice(*np.searchsorted(begin, [start, end]))
        disturbed[hit, rank] = np.maximum(disturbed[hit, rank], slower)
    computed *= disturbed
    whole = computed.max(axis=1, keepdims=True) * (1 + random.uniform(0.02, 0.2))
    pauses = np.where(np.arange(scene.steps) % EVALUATE == EVALUATE - 1, 20 * scene.step_s, 0.0)
    clock = 1000.0 + np.concatenate([[0.0], np.cumsum(whole[:, 0] + pauses)[:-1]])
    return np.broadcast_to(whole, shape), whole - computed, clock


def _bursts(scene: Scene, random: np.random.Generator, seconds: float) -> Iterator[tuple[float, float, int, float]]:
    """Other work on a rank's core: from, to, rank, how many times slower. From a scheduler's slices to some seconds
    on the clock."""
    left = scene.busy * seconds
    for _ in range(20000):
        if left <= 0:
            return
        length = float(np.exp(random.uniform(math.log(0.01), math.log(4.0))))
        start, slower = random.uniform(0, seconds), float(random.uniform(1.3, 3.0))
        left -= length
        yield start, start + length / slower, int(random.integers(scene.ranks)), slower


class Gauged:
    """The gauges of all ranks over the time of a run; each rank looks every SAMPLE_S, when it likes."""

    def __init__(self, scene: Scene, random: np.random.Generator, hosts: tuple[str, ...]) -> None:
        self._scene, self._random = scene, random
        ranks = scene.ranks
        self._due = 1000.0 + random.uniform(0, SAMPLE_S, ranks)
        self._node = np.unique(hosts, return_inverse=True)[1]
        self._left = random.uniform(0.22, 0.8, scene.nodes)
        self._warm = random.uniform(40, 84, scene.nodes)
        self._whole = float(random.choice([16.0, 64.0, 512.0])) * 2**30
        self._now = {name: np.full(ranks, np.nan) for name in NAMES}

    def at(self, clock_s: float) -> dict[str, np.ndarray]:
        """Of the newest look of each rank before `clock_s`."""
        if (due := self._due <= clock_s).any():
            self._now = {name: values.copy() for name, values in self._now.items()}
            for rank in np.flatnonzero(due):
                self._look(rank)
            self._due[due] = clock_s + SAMPLE_S
        return dict(self._now)

    def _look(self, rank: int) -> None:
        random, node = self._random, self._node[rank]
        self._left[node] = np.clip(self._left[node] + 0.01 * random.standard_normal(), 0.205, 0.9)
        self._warm[node] = np.clip(self._warm[node] + random.standard_normal(), 35, 90)
        busy = self._scene.busy
        values = {
            "retransmits": float(random.poisson(2) + (random.random() < 0.01) * random.integers(20, 400)),
            "packets_lost": float(random.poisson(0.3)),
            "shared_bytes": 1e8,
            "switches": random.gamma(2, 200),
            "preemptions": random.gamma(2, 20 + 500 * busy),
            "runqueue_share": min(1.0, random.gamma(1, 0.01 + busy)),
            "major_faults": random.poisson(0.1) * 3.0,
            "swap_bytes": 0.0,
            "numa_used_bytes": self._whole * random.uniform(0.9, 0.999),
            "memory_available_bytes": self._whole * self._left[node],
            "memory_limit_bytes": self._whole,
            "cpu_pressure": min(1.0, random.gamma(1, 0.05 + busy)),
            "memory_pressure": random.exponential(0.05) * (random.random() < 0.1),
            "io_pressure": random.exponential(0.1),
            "clock_hz": random.normal(3e9, 5e7),
            "temperature_c": self._warm[node] + random.normal(0, 1.0),
            "throttles": float(random.random() < 0.002),
            "power_w": random.normal(150, 20),
        }
        values["numa_free_bytes"] = self._whole - values["numa_used_bytes"]
        for name, value in values.items():
            if self._scene.sensors or name not in ("clock_hz", "temperature_c", "throttles", "power_w"):
                self._now[name][rank] = value
