"""Looks at made-up runs with a planted fault, and what each must be answered with: tests and benchmarks use them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from looks import SAMPLE_S, SAVE

from ryzen_mpi.training.look import Look

Plant = Callable[[list[Look], int, int], list[Look]]
"""Changes looks from index `at` on; the fault is of `rank`."""


@dataclass(frozen=True)
class Planted:
    """A fault: how it is planted, and the rule, the act and whose name it must be answered with, within which time.

    `names` is "rank", "node" or "". Found within `steps` steps, and `seconds` more where these are longer.
    """

    plant: Plant
    rule: str
    kind: str
    names: str
    steps: int
    seconds: float = 0.0


PLANTED: dict[str, Planted] = {}


def planted(*answer) -> Callable[[Plant], Plant]:
    """Registers a fault with what it must be answered with."""

    def register(plant: Plant) -> Plant:
        PLANTED[plant.__name__] = Planted(plant, *answer)
        return plant

    return register


def with_value(values: np.ndarray, rank: int, value: float) -> np.ndarray:
    """A copy with another value at one rank."""
    changed = np.array(values, dtype=np.float64)
    changed[rank] = value
    return changed


def changed(looks: list[Look], at: int, change: Callable[[Look, int], Mapping], until: int | None = None) -> list[Look]:
    """Every look from `at` on changed by `change(look, steps since at)`."""
    end = len(looks) if until is None else until
    return [replace(look, **change(look, n - at)) if at <= n < end else look for n, look in enumerate(looks)]


@planted("finite", "skip", "rank", 0)
def nan_on_one_rank(looks: list[Look], at: int, rank: int) -> list[Look]:
    """One rank's gradient is NaN at one step: so is everybody's after the reduction."""
    return changed(
        looks,
        at,
        lambda look, _: {
            "gradient_norm": math.nan,
            "finite": np.zeros(look.ranks),
            "rank_gradient_norm": with_value(look.rank_gradient_norm, rank, math.nan),
        },
        at + 1,
    )


@planted("spike", "skip", "rank", 0)
def gradient_ten_times(looks: list[Look], at: int, rank: int) -> list[Look]:
    """One rank's gradient is ten times what it should be at one step."""
    return changed(
        looks,
        at,
        lambda look, _: {
            "gradient_norm": look.gradient_norm * math.sqrt((look.ranks + 99) / look.ranks),
            "rank_gradient_norm": with_value(look.rank_gradient_norm, rank, 10 * look.rank_gradient_norm[rank]),
        },
        at + 1,
    )


@planted("spike", "skip", "", 0)
def loss_doubles_at_a_step(looks: list[Look], at: int, rank: int) -> list[Look]:
    """One bad batch."""
    return changed(looks, at, lambda look, _: {"loss": 2 * look.loss}, at + 1)


@planted("divergence", "roll_back", "", 5)
def spikes_on_end(looks: list[Look], at: int, rank: int) -> list[Look]:
    """Every step's gradient is a hundred times as large."""
    return changed(looks, at, lambda look, _: {"gradient_norm": 100 * look.gradient_norm, "loss": 2 * look.loss})


@planted("divergence", "lower_rate", "", 200)
def slow_divergence(looks: list[Look], at: int, rank: int) -> list[Look]:
    """The loss creeps up by 0.3 % a step."""
    return changed(looks, at, lambda look, n: {"loss": look.loss * min(3.0, 1.003 ** min(n, 1000))})


@planted("sync", "roll_back", "rank", 100)
def weights_differ(looks: list[Look], at: int, rank: int) -> list[Look]:
    """One unit in the last place on one rank, for good."""

    def change(look: Look, _: int) -> Mapping:
        if look.weights is None:
            return {}
        return {"weights": [number ^ (1 if r == rank else 0) for r, number in enumerate(look.weights)]}

    return changed(looks, at, change)


def slowed(looks: list[Look], at: int, rank: int, times: float) -> list[Look]:
    """One rank computes so many times as long; the others wait."""

    added_s = 0.0

    def change(look: Look, _: int) -> Mapping:
        nonlocal added_s
        computed = look.rank_step_s - look.rank_communication_s
        computed = with_value(computed, rank, times * computed[rank])
        whole = np.full(look.ranks, max(look.rank_step_s.max(), 1.02 * computed.max()))
        added_s += float(whole[0] - look.rank_step_s.max())
        clock_s = look.clock_s + added_s
        return {"rank_step_s": whole, "rank_communication_s": whole - computed, "clock_s": clock_s}

    return changed(looks, at + 1, change)  # a look tells the times of the step before


@planted("straggler", "warn", "rank", 10, 5.0)
def rank_five_times_slower(looks: list[Look], at: int, rank: int) -> list[Look]:
    return slowed(looks, at, rank, 5.0)


@planted("straggler", "warn", "rank", 101, 20.0)
def rank_a_third_slower(looks: list[Look], at: int, rank: int) -> list[Look]:
    return slowed(looks, at, rank, 4 / 3)


def gauged(looks: list[Look], at: int, rank: int, **gauges: Callable[[float, float], float]) -> list[Look]:
    """Gauges of the rank's node from `at` on: functions of their value and the seconds since."""
    began = looks[at].clock_s

    def change(look: Look, _: int) -> Mapping:
        changed = dict(look.gauges)
        there = [r for r in range(look.ranks) if look.hosts[r] == look.hosts[rank]]
        for name, new in gauges.items():
            for r in there:
                changed[name] = with_value(changed[name], r, new(float(changed[name][r]), look.clock_s - began))
        return {"gauges": changed}

    return changed(looks, at, change)


@planted("memory", "halve_micro_batch", "node", 1, 67.0 + 3 * SAMPLE_S)
def memory_squeezed(looks: list[Look], at: int, rank: int) -> list[Look]:
    """Something takes what is left on the rank's node, 0.15 % of the memory a second."""
    whole = min(160 * 2.0**30, float(np.nanmax(looks[-1].gauges["memory_limit_bytes"])))

    def left(now: float, since_s: float) -> float:
        return max(0.005 * whole, min(now, (0.15 - 0.0015 * (since_s // SAMPLE_S) * SAMPLE_S) * whole))

    return gauged(looks, at, rank, memory_available_bytes=left)


@planted("heat", "fewer_threads", "node", 1, 4 * SAMPLE_S)
def node_throttles(looks: list[Look], at: int, rank: int) -> list[Look]:
    """The processors of the rank's node are too hot."""
    return gauged(looks, at, rank, throttles=lambda now, _: 7.0, temperature_c=lambda now, _: 97.0)


@planted("network", "warn", "node", 1, 4 * SAMPLE_S)
def network_loses(looks: list[Look], at: int, rank: int) -> list[Look]:
    """One segment in a hundred from the rank's node is sent again."""
    return gauged(looks, at, rank, retransmits=lambda now, _: now + 2000.0)


@planted("progress", "warn", "", 6, 60.0)
def steps_ten_times_longer(looks: list[Look], at: int, rank: int) -> list[Look]:
    """All ranks, for good."""
    return changed(looks, at + 1, lambda look, _: {"rank_step_s": 10 * look.rank_step_s})


@planted("progress", "warn", "", 2 * SAVE + 21)
def no_checkpoints(looks: list[Look], at: int, rank: int) -> list[Look]:
    """Saving fails from here on."""
    newest = looks[at].gauges["checkpoint_step"]
    return changed(looks, at, lambda look, _: {"gauges": dict(look.gauges) | {"checkpoint_step": newest}})
