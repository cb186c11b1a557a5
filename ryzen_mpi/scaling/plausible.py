"""What cannot be true of a launch, or of several beside one another. Pure: the same launches, the same problems.

The documents behind the project claimed an efficiency of 505 % from ranks that ran one after the other and never
exchanged a gradient (`published`). Each mistake behind it, and each that could take its place, is looked for here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ryzen_mpi.scaling import comparable
from ryzen_mpi.scaling.record import Launch, content, parse
from ryzen_mpi.sealing import digest

ROUNDING = 1e-6
"""Relative; of sums and quotients of the same numbers."""
CLOCK_S, CLOCK_SHARE = 0.25, 0.05
"""By which the wall clock may differ from the monotonic one over a launch: it is set and slewed, and between two
looks a rank may lose its core."""
OUTSIDE_S, OUTSIDE_SHARE = 0.25, 0.25
"""Of the measured time that may lie outside of steps: the last barrier, and on shared cores being woken up."""
TOGETHER_SHARE = 0.5
"""Of the shortest rank's time in which all ranks of a launch must have been training at once."""


def problems(launches: Iterable[Launch | Mapping[str, Any]]) -> list[str]:
    """All that cannot be true of these launches, and what keeps them from being compared; empty if nothing. Pure.

    Takes launches as read, or their JSON values from wherever: what is no launch at all is a problem, not an error.
    """
    found: list[str] = []
    good: list[Launch] = []
    for place, item in enumerate(launches):
        values = content(item) if isinstance(item, Launch) else item
        try:
            launch = parse(values)
        except ValueError as error:
            found.append(f"launch {_number(values, place)}: {error}")
            continue
        found += [f"{launch.name}: {text}" for text in within(launch, values)]
        good.append(launch)
    return found + comparable.problems(good)


def within(launch: Launch, values: Mapping[str, Any] | None = None) -> list[str]:
    """What cannot be true of one launch by itself; `values`: as it was read, to be held against its hash. Pure."""
    found = []
    if values is not None and values.get("sha256") != digest(values):
        found.append("its hash does not fit: it was changed after it was written")
    for look in (_counts, _samples, _times, _clocks, _at_once):
        found += look(launch)
    return found


def _number(values: Any, place: int) -> str:
    number = values.get("number") if isinstance(values, Mapping) else None
    return str(number) if isinstance(number, int) else f"at place {place + 1}"


def _counts(launch: Launch) -> Iterator[str]:
    if not launch.steps or not launch.samples:
        yield "nothing was measured: it has no step or no sample"
    if launch.mode == "weak" and launch.global_batch % launch.ranks:
        yield f"its batch of {launch.global_batch} is not the same for each of {launch.ranks} ranks"
    if not launch.nodes <= launch.ranks or len(set(launch.rank_nodes)) != launch.nodes:
        yield f"its ranks are on {len(set(launch.rank_nodes))} nodes, and it tells {launch.nodes}"
    if any(threads < 1 for threads in launch.threads) or any(not cpus for cpus in launch.cpus):
        yield "a rank has no thread, or no core"
    if len(set(launch.rank_machines)) > 1:
        yield "its nodes differ in processor or software"
    if digest(launch.machine) != launch.rank_machines[0]:
        yield "the machine it tells of is not what its ranks had"


def _samples(launch: Launch) -> Iterator[str]:
    expected = launch.steps * launch.global_batch
    if launch.samples != expected:
        yield f"it claims {launch.samples} samples, and {launch.steps} steps of {launch.global_batch} are {expected}"
    if launch.samples != sum(launch.rank_samples):
        yield f"it claims {launch.samples} samples, and its ranks trained {sum(launch.rank_samples)}"
    if launch.duplicates:
        yield f"{launch.duplicates} samples were trained more than once in an epoch"
    shards = [sha for sha, count in zip(launch.rank_indices_sha256, launch.rank_samples, strict=True) if count]
    if len(set(shards)) < len(shards):
        yield "several ranks trained the very same samples"
    if launch.skipped_steps:
        yield f"{launch.skipped_steps} of its steps changed no weight (not finite)"
    rate = launch.samples / launch.measured_s if launch.measured_s > 0 else 0.0
    if not _near(launch.throughput, rate, ROUNDING):
        factor = launch.throughput / rate if rate else 0.0
        yield (
            f"it claims {launch.throughput:.6g} samples/s, and {launch.samples} samples in {launch.measured_s:.4g} s "
            f"are {rate:.6g}: {factor:.3g} times as much was claimed"
        )


def _times(launch: Launch) -> Iterator[str]:
    positive = (launch.measured_s, *launch.rank_s, *launch.rank_computation_s, *launch.step_s)
    if min(positive) <= 0 or min(launch.rank_communication_s) < 0:
        yield "a time of it is zero or negative"
        return
    parts = zip(launch.rank_s, launch.rank_computation_s, launch.rank_communication_s, strict=True)
    if any(not _near(whole, inside + blocked, ROUNDING) for whole, inside, blocked in parts):
        yield "computation and communication of a rank do not add up to its time"
    slowest = max(launch.rank_s)
    if launch.measured_s < slowest * (1 - ROUNDING):
        yield f"{launch.measured_s:.4g} s were measured, and its slowest rank took {slowest:.4g} s"
    steps_s = sum(launch.step_s[launch.warmup_steps :])
    if launch.measured_s > steps_s * (1 + OUTSIDE_SHARE) + OUTSIDE_S:
        yield (
            f"{launch.measured_s:.4g} s were measured, and its steps after warm-up took {steps_s:.4g} s: "
            f"start-up or warm-up is in it"
        )
    if steps_s > launch.ranks * launch.measured_s * (1 + ROUNDING):
        yield f"its measured steps took {steps_s:.4g} s, more than the {launch.measured_s:.4g} s measured"
    for name, times in (("computation", launch.rank_computation_s), ("time", launch.rank_s)):
        if launch.ranks > 1 and len(set(times)) == 1:
            yield f"the {name} of all its ranks is the same to the last digit"
    if len(launch.step_s) > 2 and len(set(launch.step_s)) == 1:
        yield "all its steps took the same time to the last digit"
    if len(launch.losses) > 2 and len(set(launch.losses)) == 1:
        yield "its loss is the same at every step"


def _clocks(launch: Launch) -> Iterator[str]:
    if launch.ended <= launch.began:
        yield "it ended before it began"
    for rank, (began, ended, took) in enumerate(zip(launch.rank_began, launch.rank_ended, launch.rank_s, strict=True)):
        if ended <= began:
            yield f"rank {rank} ended before it began"
        elif not _near(ended - began, took, CLOCK_SHARE, CLOCK_S):
            yield f"rank {rank} took {took:.4g} s by one clock and {ended - began:.4g} s by the other"
        elif began < launch.began - CLOCK_S or ended > launch.ended + CLOCK_S:
            yield f"rank {rank} trained outside of the launch's own time"
    if launch.waited_share is not None and not 0 <= launch.waited_share <= 1:
        yield f"waited_share={launch.waited_share:g} is no share"
    if launch.clock_mhz is not None and not 100 <= launch.clock_mhz <= 20_000:
        yield f"clock_mhz={launch.clock_mhz:g} is no clock of a processor"


def _at_once(launch: Launch) -> Iterator[str]:
    together = min(launch.rank_ended) - max(launch.rank_began)
    if together < TOGETHER_SHARE * min(launch.rank_s):
        yield (
            f"its ranks ran one after the other: all of them trained at once for {max(0.0, together):.3g} s of "
            f"{max(launch.rank_s):.3g} s"
        )


def _near(one: float, other: float, relative: float, absolute: float = 0.0) -> bool:
    return abs(one - other) <= max(relative * max(abs(one), abs(other)), absolute)
