"""From what was measured to the figures of a check."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.validation.result import Measured, not_measurable

if TYPE_CHECKING:
    from ryzen_mpi.bench.measure import Samples
    from ryzen_mpi.cluster.placement import Placement
    from ryzen_mpi.validation.registry import Context

RESAMPLES = 1000


def number(context: Context, name: str, default: float) -> float:
    """The option `name` of a check, above 0. Local. Raises UserError."""
    value = context.options.get(name, default)
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 < found < math.inf:
        raise UserError(f"{name}={value}: not a number above 0", f"for example {name}={default:g}")
    return found


def placed(context: Context) -> Placement:
    """Puts this rank on its cores as training does, so that what is measured is what training has. Collective."""
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.settings import load_settings

    assert context.world is not None
    return bind_ranks(context.world, load_settings(overrides=context.overrides))


def same_network(context: Context) -> None:
    """Lets everything that follows talk over the interface that training takes with these overrides. Collective.

    Raises UserError where there is none of that name.
    """
    from ryzen_mpi.comm.rendezvous import choose_interface
    from ryzen_mpi.settings import load_settings

    assert context.world is not None
    settings = load_settings(overrides=context.overrides).distributed
    if settings.interface or settings.interfaces:
        os.environ["GLOO_SOCKET_IFNAME"] = choose_interface(context.world, settings).name


def least(name: str, values: Sequence[float], unit: str, why: str = "") -> Measured:
    """The smallest of values that must each be large enough (cores of every node). Pure."""
    return Measured(name, min(values), unit, len(values), samples=tuple(values), why=why)


def most(name: str, values: Sequence[float], unit: str, why: str = "") -> Measured:
    """The largest of values that must each be small enough. Pure."""
    return Measured(name, max(values), unit, len(values), samples=tuple(values), why=why)


def middle(name: str, values: Sequence[float], unit: str, why: str = "") -> Measured:
    """The median with its distribution-free 95 % interval; fewer than six values have none. Local."""
    from ryzen_mpi.figures import median

    figure = median(values)
    low, high = (figure.low, figure.high) if figure.confidence >= 0.95 else (None, None)
    return Measured(name, figure.value, unit, figure.n, low, high, tuple(map(float, values)), why)


def share(name: str, hits: int, trials: int, why: str = "") -> Measured:
    """hits / trials with the interval of Clopper and Pearson (Biometrika 26, 1934): 0 of n is no proof of 0. Local."""
    from scipy.stats import beta

    if not trials:
        return not_measurable(name, "1", "nothing was counted")
    low = 0.0 if not hits else float(beta.ppf(0.025, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(0.975, hits + 1, trials - hits))
    return Measured(name, hits / trials, "1", trials, low, high, why=f"{hits} of {trials}{why and '; '}{why}")


def call_figures(prefix: str, times_us: Any, rounds: Sequence[int], why: str) -> list[Measured]:
    """`PREFIX_p50` and `PREFIX_p99` of calls that were timed in rounds. Local.

    The median is of the rounds' medians, and its n is rounds: calls of one round share what disturbs them. The interval
    of the 99th percentile is from resampling whole rounds (block bootstrap, Künsch 1989, Annals of Statistics 17(3)).

    Args:
        times_us: [calls].
        rounds: first call of every round, and the number of calls.
    """
    import numpy as np

    from ryzen_mpi.bench.rows import percentile

    blocks = [times_us[begin:end] for begin, end in zip(rounds, rounds[1:], strict=False)]
    medians = [round(float(np.median(block)), 3) for block in blocks]
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(blocks), (RESAMPLES, len(blocks)))
    tails = [percentile(np.concatenate([blocks[i] for i in row]), 99) for row in drawn]
    low, high = np.percentile(tails, [2.5, 97.5])
    calls = tuple(round(float(value), 3) for value in times_us)
    tail = Measured(f"{prefix}_p99", percentile(times_us, 99), "us", len(calls), float(low), float(high), calls, why)
    return [middle(f"{prefix}_p50", medians, "us", f"{why}; median of {len(blocks)} rounds"), tail]


def disturbance(what: str, samples: Samples) -> list[str]:
    """A line of evidence where something else ran while `what` was measured; empty where nothing did. Local."""
    from ryzen_mpi.bench.output import disturbed_mark

    if not samples.disturbed:
        return []
    return [f"disturbed: {what}: {disturbed_mark(True, samples.waited_whole, samples.others)}"]


def told(reading: Mapping[str, float], unit: str, most_shown: int = 8) -> str:
    """Sensors' values for a line of evidence. Pure."""
    shown = [f"{name} {value:.4g} {unit}" for name, value in list(reading.items())[:most_shown]]
    return ", ".join(shown) + (", ..." if len(reading) > most_shown else "")
