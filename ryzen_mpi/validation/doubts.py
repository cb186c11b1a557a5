"""What makes recorded results unbelievable, whatever their figures say. Pure functions over results."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from ryzen_mpi.validation.result import STATUSES, Measured, Result, seal
from ryzen_mpi.validation.thresholds import TIMED, Threshold, is_finite

CLOCK_SLACK_S = 2.0
"""Of clocks that NTP sets while a campaign runs."""
CONSTANT_FROM = 3
"""Timings that are all alike to the last bit: from so many on, nobody measured them."""
COPIED_FROM = 4
"""Timings that two results share: from so many on, one of them is a copy."""


def of_all(results: Sequence[Result], phase: str, campaign: str) -> list[str]:
    """What cannot be true of `results` (in the order of their numbers) as a whole."""
    found = []
    for number, count in Counter(result.number for result in results).items():
        if count > 1:
            found.append(f"{count} results have the number {number}")
    prints = Counter(_print_of(result) for result in results)
    found += [f"{count} results of {name} are one and the same" for (name, _), count in prints.items() if count > 1]
    for result in results:
        found += [f"result {result.number} ({result.check}): {text}" for text in _of_one(result, phase, campaign)]
    for before, after in zip(results, results[1:], strict=False):
        if after.began < before.ended - CLOCK_SLACK_S and after.number != before.number:
            found.append(
                f"result {after.number} ({after.check}) began {before.ended - after.began:.0f} s before result "
                f"{before.number} ended: the clock ran backwards, or they are not of one campaign"
            )
    found += _foreign(results)
    found += _copied(results)
    return found


def _of_one(result: Result, phase: str, campaign: str) -> Iterator[str]:
    if result.campaign != campaign:
        yield "it belongs to another results folder"
    if result.phase != phase:
        yield f"it was made for phase {result.phase}, and this is {phase}"
    if result.status not in STATUSES:
        yield f"its status {result.status!r} does not exist"
    if not (math.isfinite(result.began) and math.isfinite(result.ended)):
        yield "it has no time"
    elif result.ended < result.began:
        yield f"it ended {result.began - result.ended:.3g} s before it began"
    names = Counter(figure.name for figure in result.findings.figures)
    yield from (f"figure {name} is there {count} times" for name, count in names.items() if count > 1)


def _print_of(result: Result) -> tuple[str, str]:
    """Name and content of a result, its number left out: a copy is a copy under any number."""
    content = seal(result)
    bare = {key: content[key] for key in ("began", "ended", "findings", "conditions")}
    return result.check, repr(sorted(bare.items()))


def _foreign(results: Sequence[Result]) -> list[str]:
    """Results of another machine or of other software than the first."""
    found = []
    for name in ("machine", "hosts", "versions"):
        told = [(r.number, r.check, r.conditions.get(name)) for r in results if r.conditions.get(name)]
        for number, check, value in told[1:]:
            first = told[0][2]
            if _core(value) != _core(first):
                found.append(f"result {number} ({check}) is of another {name.rstrip('s')} than result {told[0][0]}")
    return found


def _core(value: object) -> object:
    """Of a machine, what does not change between two checks; of hosts, nothing of their order."""
    if isinstance(value, dict):
        return {key: value.get(key) for key in ("cpu", "cores", "memory_gib", "torch", "python", "ryzen_mpi")}
    return sorted(value) if isinstance(value, (list, tuple)) else value


def _copied(results: Sequence[Result]) -> list[str]:
    """Timings that occur in two results: a clock does not tell the same to the nanosecond twice."""
    seen: dict[tuple[float, ...], tuple[int, str]] = {}
    found = []
    for result in results:
        for figure in result.findings.figures:
            if figure.unit not in TIMED or len(figure.samples) < COPIED_FROM:
                continue
            key = tuple(map(float, figure.samples))
            if key in seen and seen[key][0] != result.number:
                found.append(f"{result.check} {figure.name}: the same samples as in result {seen[key][0]}")
            seen.setdefault(key, (result.number, figure.name))
    return found


def wrong_size(result: Result, ranks: int, nodes: int) -> str:
    """Why the result says nothing of the phase's ranks and nodes; "" where it does."""
    had_ranks, had_nodes = result.conditions.get("ranks"), result.conditions.get("nodes")
    if had_ranks == ranks and had_nodes == nodes:
        return ""
    return f"it ran on {had_ranks} ranks on {had_nodes} node(s), and the phase has {ranks} on {nodes}"


def of_figure(figure: Measured, threshold: Threshold) -> str:
    """Why a figure cannot be true; "" where it can."""
    numbers = [figure.value, *figure.samples, *(end for end in (figure.low, figure.high) if end is not None)]
    if not all(map(is_finite, numbers)) or not isinstance(figure.n, int):
        return "it holds what is no number"
    if figure.unit != threshold.unit:
        return f"its unit is {figure.unit}, and the threshold's {threshold.unit}"
    if figure.n < 1:
        return f"it rests on {figure.n} observations"
    assert figure.value is not None
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    if not low <= figure.value <= high:
        return f"it lies outside of its own interval {low:.6g} to {high:.6g}"
    if threshold.is_impossible(figure):
        return f"it is beyond the physical limit {threshold.limit:g}"
    return _of_samples(figure)


def _of_samples(figure: Measured) -> str:
    samples = figure.samples
    if not samples or figure.unit not in TIMED:
        return ""
    if figure.n > len(samples):
        return f"it says it rests on {figure.n} observations and shows {len(samples)}"
    if min(samples) < 0:
        return "a time or rate below nothing"
    if len(samples) >= CONSTANT_FROM and min(samples) == max(samples):
        return f"{len(samples)} timings that are all {samples[0]:.6g}: nobody measured them"
    if not min(samples) <= figure.value <= max(samples):
        return "it lies outside of what was observed"
    return ""
