"""What keeps launches from being compared with one another: other work, other cores, another machine, other weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ryzen_mpi.scaling.record import Launch

CLOCK_S = 1.0
"""By which launches may seem to overlap: their epochs come from the clocks of different nodes."""
TOLERANCE = {
    "float64": {"losses": 1e-9, "gradient_norms": 1e-9},
    "float32": {"losses": 1e-4, "gradient_norms": 1e-2},
    "bfloat16": {"losses": 1e-3, "gradient_norms": 3e-2},
}
"""Relative difference between numbers of ranks that the order of additions may make within FIRST_STEPS. Measured with
the `scaling_benchmark` profile at 1 and 2 ranks: losses 1e-7, gradient norms 7e-5 in float32; 1e-5 and 3e-4 in
bfloat16; 1e-14 in float64. Two ranks that exchange no gradient: the norm is 29 % off at the first step, while the loss
of random tokens needs 10 steps to be 0.2 % off; so both are looked at."""
FIRST_STEPS = 20
"""That are compared: rounding grows with the steps, a missing exchange shows at the first."""
EXACT_COMPRESSION = ("none", "bfloat16", "float16")
"""The others change what is learnt, and with it what different numbers of nodes learn."""


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
    for name, what in (("losses", "loss"), ("gradient_norms", "norm of the gradient")):
        for difference in differences(launches, name):
            place = difference.beyond
            if place is None:
                continue
            first, other = difference.first, difference.other
            ours, its = getattr(other, name)[place], getattr(first, name)[place]
            yield (
                f"at the global batch {first.global_batch} the {what} of step {place + 1} is {ours:.6g} in {other.name}"
                f" and {its:.6g} in {first.name}, {difference.apart[place]:.2g} apart where rounding allows "
                f"{difference.tolerance:g}: the ranks did not train the same model"
            )


@dataclass(frozen=True)
class Difference:
    """How far a launch is from the first of its global batch: relatively, at each of the first steps."""

    first: Launch
    other: Launch
    apart: tuple[float, ...]
    tolerance: float

    @property
    def beyond(self) -> int | None:
        """Place of the first step that is farther apart than rounding allows."""
        return next((place for place, apart in enumerate(self.apart) if apart > self.tolerance), None)


def differences(launches: Sequence[Launch], name: str) -> list[Difference]:
    """Of each launch against the first of its batch, in "losses" or "gradient_norms", over FIRST_STEPS. Pure."""
    found, seen = [], {}
    for launch in launches:
        first = seen.setdefault(launch.global_batch, launch)
        values = zip(getattr(launch, name)[:FIRST_STEPS], getattr(first, name)[:FIRST_STEPS], strict=False)
        apart = tuple(abs(one - other) / max(abs(one), abs(other), 1e-300) for one, other in values)
        if first is not launch and apart and launch.compression in EXACT_COMPRESSION:
            found.append(Difference(first, launch, apart, tolerance(launch, name)))
    return found


def tolerance(launch: Launch, name: str) -> float:
    """TOLERANCE for it; the widest for a dtype that is not known, and where gradients are sent as bfloat16. Pure."""
    dtype = launch.dtype if launch.compression == "none" else "bfloat16"
    return TOLERANCE.get(dtype, TOLERANCE["bfloat16"])[name]


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
