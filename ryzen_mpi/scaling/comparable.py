"""What keeps launches from being compared with one another: other work, other cores, another machine, other weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from ryzen_mpi.scaling.record import Launch

CLOCK_S = 1.0
"""By which launches may seem to overlap: their epochs come from the clocks of different nodes."""
LOSS_TOLERANCE = {"float64": 1e-9, "float32": 2e-3, "bfloat16": 5e-2}
"""Relative difference of losses at the same step between numbers of ranks, from the order of additions alone: it begins
at the dtype's rounding and grows with the steps, as Adam divides by small moments. Ranks that did not exchange their
gradients differ by some percent after a few steps (a fault planted in the tests)."""


def problems(launches: Sequence[Launch]) -> list[str]:
    """All of it, in words. Pure."""
    found: list[str] = []
    for look in (_repeated, _same_for_all, _one_at_a_time, _work, _same_samples, _losses):
        found += look(sorted(launches, key=lambda launch: launch.number))
    return found


def _repeated(launches: Sequence[Launch]) -> Iterator[str]:
    """One measurement told twice: same number, hash, turn, or the same time to the last digit."""
    for what, key in _IDENTITIES.items():
        seen: dict[Hashable, Launch] = {}
        for launch in launches:
            first = seen.setdefault(key(launch), launch)
            if first is not launch:
                yield f"{launch.name} has {what} of {first.name}"


_IDENTITIES: dict[str, Callable[[Launch], Hashable]] = {
    "the number": lambda launch: launch.number,
    "the content": lambda launch: launch.sha256 or launch.number,
    "the mode, ranks and repeat": lambda launch: (launch.mode, launch.ranks, launch.repeat),
    "the very time, to the last digit,": lambda launch: launch.measured_s,
}


def _same_for_all(launches: Sequence[Launch]) -> Iterator[str]:
    """What one rank and several must have in common, whatever the mode."""
    for what, value in _COMMON.items():
        first = launches[0] if launches else None
        for launch in launches:
            if value(launch) != value(first):
                yield f"{launch.name} has {what} {_text(value(launch))}, and {first.name} has {_text(value(first))}"
                break
    for launch in launches:
        if len(set(launch.threads)) > 1 or len({len(cpus) for cpus in launch.cpus}) > 1:
            yield f"{launch.name}: its ranks have different numbers of threads or cores"


_COMMON: dict[str, Callable[[Launch], Any]] = {
    "threads a rank": lambda launch: launch.threads[0],
    "cores a rank": lambda launch: len(launch.cpus[0]),
    "warm-up steps": lambda launch: launch.warmup_steps,
    "measured steps": lambda launch: launch.steps,
    "precision": lambda launch: launch.dtype,
    "profile": lambda launch: launch.profile,
    "overrides": lambda launch: launch.overrides,
    "settings": lambda launch: launch.settings_sha256,
    "machine": lambda launch: dict(launch.machine),
    "machine's hash": lambda launch: launch.rank_machines[0],
}


def _one_at_a_time(launches: Sequence[Launch]) -> Iterator[str]:
    for before, launch in zip(launches, launches[1:], strict=False):
        if launch.began < before.began:
            yield f"{launch.name} was started before {before.name}, which has the lower number: a clock ran backwards"
        elif launch.began < before.ended - CLOCK_S:
            yield f"{launch.name} began before {before.name} had ended: each disturbed the other"


def _work(launches: Sequence[Launch]) -> Iterator[str]:
    """Strong: the same batch and samples for all. Weak: the same for each rank."""
    for mode, each in (("strong", False), ("weak", True)):
        mine = [launch for launch in launches if launch.mode == mode]
        for name in ("global_batch", "samples"):
            amounts = {getattr(launch, name) / (launch.ranks if each else 1): launch for launch in mine}
            if len(amounts) > 1:
                told = ", ".join(f"{amount:g} ({launch.name})" for amount, launch in sorted(amounts.items()))
                yield f"{mode} scaling with different {name}{' a rank' * each}: {told}"


def _same_samples(launches: Sequence[Launch]) -> Iterator[str]:
    """The sampler makes the samples of a step a function of its number: same batch, same indices."""
    seen: dict[Hashable, Launch] = {}
    for launch in launches:
        key = (launch.global_batch, launch.steps, launch.warmup_steps, launch.settings_sha256)
        first = seen.setdefault(key, launch)
        if first.indices_sha256 != launch.indices_sha256:
            yield f"{launch.name} trained other samples than {first.name}"


def _losses(launches: Sequence[Launch]) -> Iterator[str]:
    for batch, largest, first, launch, step in loss_differences(launches):
        limit = loss_tolerance(launch.dtype)
        if largest > limit:
            yield (
                f"at the global batch {batch} the loss of step {step} is {launch.losses[step - 1]:.6g} in "
                f"{launch.name} and {first.losses[step - 1]:.6g} in {first.name}, which is {largest:.2g} apart and "
                f"beyond rounding ({limit:g}): the ranks did not train the same model"
            )


def loss_tolerance(dtype: str) -> float:
    """LOSS_TOLERANCE of the dtype; the widest for one that is not known. Pure."""
    return LOSS_TOLERANCE.get(dtype, max(LOSS_TOLERANCE.values()))


def loss_differences(launches: Sequence[Launch]) -> Iterator[tuple[int, float, Launch, Launch, int]]:
    """Of each launch against the first of its batch: batch, largest relative difference, both, its step. Pure."""
    seen: dict[int, Launch] = {}
    for launch in launches:
        first = seen.setdefault(launch.global_batch, launch)
        if first is launch:
            continue
        pairs = zip(launch.losses, first.losses, strict=False)
        apart = [abs(one - other) / max(abs(one), abs(other), 1e-300) for one, other in pairs]
        if apart:
            worst = max(range(len(apart)), key=apart.__getitem__)
            yield launch.global_batch, apart[worst], first, launch, worst + 1


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
