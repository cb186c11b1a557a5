"""Looks at a dull run, step by step, with what a test changes; and what rules say of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ryzen_mpi.cluster.gauges import NAMES
from ryzen_mpi.health.acts import Act
from ryzen_mpi.health.rules.rule import Rule
from ryzen_mpi.training.look import Look

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

RANKS, BATCH, GIB = 4, 64, 2.0**30
HOSTS = ("node1", "node1", "node2", "node2")
QUIET = dict.fromkeys(NAMES, 0.0) | {
    "memory_available_bytes": 40 * GIB,
    "memory_limit_bytes": 64 * GIB,
    "numa_used_bytes": 20 * GIB,
    "numa_free_bytes": 12 * GIB,
    "clock_hz": 3e9,
    "temperature_c": 60.0,
}


def gauges(ranks: int = RANKS, sample: int = 0, **changes: float | list[float]) -> dict[str, np.ndarray]:
    """Gauges of a quiet machine; `sample` makes them differ from those of another look at it."""
    found = {name: np.full(ranks, value) for name, value in QUIET.items()}
    found["switches"] += sample
    for name, value in changes.items():
        found[name] = np.broadcast_to(np.asarray(value, np.float64), ranks).copy()
    return found


def look(step: int, **changes) -> Look:
    """A look of a run in which nothing happens; a small, regular noise makes its windows have a spread."""
    ranks = changes.pop("ranks", RANKS)
    noise = ((step * step * 7919) % 101) / 101 - 0.5
    usual = {
        "position": (step - 1) * BATCH,
        "clock_s": 1000.0 + step,
        "loss": 2.0 + 0.05 * noise,
        "gradient_norm": float(np.exp(0.2 * noise)),
        "learning_rate": 1e-3,
        "finite": np.ones(ranks),
        "rank_loss": np.full(ranks, 2.0),
        "rank_gradient_norm": np.exp(0.1 * (((step + np.arange(ranks)) * 31) % 17 / 17 - 0.5)),
        "rank_step_s": np.full(ranks, 1.0),
        "rank_communication_s": 0.2 + 0.02 * ((step + np.arange(ranks)) * 13 % 7),
        "gauges": gauges(ranks),
        "hosts": HOSTS if ranks == RANKS else ("node1",) * ranks,
    }
    return Look(step=step, **usual | changes)


def acts_of(rule: Rule, looks: Iterable[Look], carried_out: bool = True) -> list[Act]:
    """What a rule answers, told that it was carried out."""
    found = []
    for one in looks:
        acts = rule.look(one)
        for act in acts if carried_out else ():
            rule.took(act)
        found += acts
    return found


def run(steps: Iterable[int], **changes: Callable[[int], object]) -> list[Look]:
    """Looks at these steps, with fields as functions of the step."""
    return [look(step, **{name: value(step) for name, value in changes.items()}) for step in steps]


def told(acts: Iterable[Act]) -> list[tuple[int, str, int]]:
    """Step, kind and rank of each."""
    return [(act.step, act.kind, act.rank) for act in acts]
