"""One JSON file a configuration in the form of the project's documents: timestamp, num_processes, aggregated_metrics,
rank_results. Written beside every report, and read from wherever: then nothing in it is believed before it is checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling.account import Point, points
from ryzen_mpi.scaling.record import MODES, MOST_RANKS, Launch

LARGEST_FILE = 64 << 20
ROUNDING = 0.01
"""Relative: such files carry three or four digits."""
AT_ONCE_SHARE = 0.5
"""Of the shortest rank's time in which all must have run, as in `plausible`."""


def document(point: Point, series: Mapping[str, Any]) -> dict[str, Any]:
    """The file of one number of ranks; `series` is the report's row of it. Pure.

    aggregated_metrics are over all launches. rank_results are those of one launch, that of the median time: times of a
    rank from several launches would belong to no run there ever was.
    """
    ordered = sorted(point.launches, key=lambda launch: launch.measured_s)
    one = ordered[(len(ordered) - 1) // 2]
    return {
        "timestamp": datetime.fromtimestamp(one.ended, UTC).isoformat(timespec="seconds"),
        "num_processes": point.ranks,
        "mode": one.mode,
        "aggregated_metrics": {
            "throughput_samples_per_s": series["throughput"]["value"],
            "throughput_low": series["throughput"]["low"],
            "throughput_high": series["throughput"]["high"],
            "elapsed_s": series["measured_s"]["value"],
            "samples": one.samples,
            "global_batch": one.global_batch,
            "steps": one.steps,
            "warmup_steps_dropped": one.warmup_steps,
            "speedup": series["speedup"]["value"],
            "efficiency": series["efficiency"]["value"],
            "efficiency_low": series["efficiency"]["low"],
            "efficiency_high": series["efficiency"]["high"],
            "communication_share": series["communication_share"]["value"],
            "final_loss": one.losses[-1],
            "launches": len(point.launches),
        },
        "rank_results": [_rank(one, rank) for rank in range(point.ranks)],
    }


def _rank(launch: Launch, rank: int) -> dict[str, Any]:
    return {
        "rank": rank,
        "node": launch.rank_nodes[rank],
        "threads": launch.threads[rank],
        "samples": launch.rank_samples[rank],
        "elapsed_s": launch.rank_s[rank],
        "computation_s": launch.rank_computation_s[rank],
        "communication_s": launch.rank_communication_s[rank],
        "began": launch.rank_began[rank],
        "ended": launch.rank_ended[rank],
    }


def documents(launches: Sequence[Launch], report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every file of a report by its name, such as "scaling_strong_2.json". Pure."""
    found = {}
    for mode in MODES:
        rows = {row["ranks"]: row for row in (report[mode] or {}).get("points", [])}
        for point in points(launches, mode):
            if point.ranks in rows:
                found[f"scaling_{mode}_{point.ranks}.json"] = document(point, rows[point.ranks])
    return found


@dataclass(frozen=True)
class Told:
    """What a file of this form claims of one configuration; None where it does not say.

    Attributes:
        name: of the file.
        ranks, mode: number of processes, and "strong" where it does not say.
        throughput, elapsed_s, samples: over all ranks.
        rank_s, rank_samples, rank_spans: of those ranks it tells: seconds, samples, (began, ended).
        listed: ranks it has results of.
    """

    name: str
    ranks: int
    mode: str
    throughput: float
    elapsed_s: float | None
    samples: float | None
    rank_s: tuple[float, ...]
    rank_samples: tuple[float, ...]
    rank_spans: tuple[tuple[float, float], ...]
    listed: int


def load(path: Path) -> Any:
    """The JSON of a file from outside. Local. Raises UserError: too large, no JSON, or nested without end."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} is larger than {LARGEST_FILE >> 20} MiB", "a report is much smaller")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} can't be read as JSON: {getattr(error, 'strerror', None) or error}") from None


def read_document(values: Any, name: str) -> Told:
    """What such a file claims. Pure. Raises UserError where it is not of this form."""

    def wrong(what: str) -> UserError:
        return UserError(
            f"{name} is not of the documents' form: {what}",
            "it has timestamp, num_processes, aggregated_metrics and rank_results",
        )

    if not isinstance(values, Mapping):
        raise wrong(f"it holds a {type(values).__name__}")
    ranks, metrics, results = (values.get(key) for key in ("num_processes", "aggregated_metrics", "rank_results"))
    if isinstance(ranks, bool) or not isinstance(ranks, int) or not 1 <= ranks <= MOST_RANKS:
        raise wrong(f"num_processes is not a number from 1 to {MOST_RANKS}")
    if not isinstance(metrics, Mapping):
        raise wrong("aggregated_metrics is not a set of figures")
    if not isinstance(results, list) or len(results) > MOST_RANKS or not all(isinstance(r, Mapping) for r in results):
        raise wrong("rank_results is not a list of what each rank did")
    throughput = _number(metrics.get("throughput_samples_per_s"))
    if throughput is None:
        raise wrong("aggregated_metrics has no number throughput_samples_per_s")
    mode = values.get("mode", "strong")
    if mode not in MODES:
        raise wrong(f"mode is neither of {', '.join(MODES)}")
    spans = ((_number(each.get("began")), _number(each.get("ended"))) for each in results)
    return Told(
        name,
        ranks,
        mode,
        throughput,
        _number(metrics.get("elapsed_s")),
        _number(metrics.get("samples")),
        tuple(s for each in results if (s := _number(each.get("elapsed_s"))) is not None),
        tuple(s for each in results if (s := _number(each.get("samples"))) is not None),
        tuple((began, ended) for began, ended in spans if began is not None and ended is not None),
        len(results),
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def examine(told: Sequence[Told]) -> list[str]:
    """What in these files cannot be true, or cannot be compared; empty if nothing. Pure."""
    found = [f"{each.name}: {text}" for each in told for text in _one(each)]
    for mode in MODES:
        found += _between([each for each in told if each.mode == mode], mode)
    return found


def _one(told: Told) -> list[str]:
    numbers = [told.throughput, *told.rank_s, *told.rank_samples, *(x for x in (told.elapsed_s, told.samples) if x)]
    if not all(map(math.isfinite, numbers)) or min(numbers) <= 0 or 0 in (told.elapsed_s, told.samples):
        return ["a figure of it is zero, negative or not finite"]
    found = []
    if told.listed != told.ranks:
        found.append(f"it has results of {told.listed} ranks, and claims {told.ranks}")
    if told.samples is not None and len(told.rank_samples) == told.ranks:
        trained = sum(told.rank_samples)
        if abs(trained - told.samples) > ROUNDING * trained:
            found.append(f"it claims {told.samples:g} samples, and its ranks trained {trained:g}")
    slowest = max(told.rank_s, default=told.elapsed_s)
    if slowest is not None and told.elapsed_s is not None and told.elapsed_s < slowest * (1 - ROUNDING):
        found.append(f"it claims {told.elapsed_s:.4g} s, and its slowest rank took {slowest:.4g} s")
    samples = told.samples if told.samples is not None else sum(told.rank_samples)
    seconds = told.elapsed_s if told.elapsed_s is not None else slowest
    if samples and seconds and (factor := told.throughput * seconds / samples):
        if abs(factor - 1) > ROUNDING:
            times_ranks = told.ranks > 1 and abs(factor / told.ranks - 1) <= ROUNDING
            why = (
                f", which is its {told.ranks} ranks: samples were counted once for each of them" if times_ranks else ""
            )
            found.append(f"its throughput is {factor:.3g} times the {samples:g} samples in {seconds:.4g} s{why}")
    if len(told.rank_s) > 1 and len(set(told.rank_s)) == 1:
        found.append("all its ranks took the same time to the last digit")
    if len(told.rank_spans) > 1:
        together = min(end for _, end in told.rank_spans) - max(begin for begin, _ in told.rank_spans)
        shortest = min(end - begin for begin, end in told.rank_spans)
        if shortest <= 0:
            found.append("a rank of it ended before it began")
        elif together < AT_ONCE_SHARE * shortest:
            found.append("its ranks ran one after the other")
    return found


def _between(told: Sequence[Told], mode: str) -> list[str]:
    if not told:
        return []
    counts = [each.ranks for each in told]
    found = [f"{mode}: several files for {ranks} ranks" for ranks in sorted(set(counts)) if counts.count(ranks) > 1]
    base = next((each for each in told if each.ranks == 1), None)
    if base is None:
        return [*found, f"{mode}: there is no file for 1 rank, without which there is no efficiency"]
    for each in told:
        share = each.ranks if mode == "weak" else 1
        if each.samples and base.samples and abs(each.samples / share - base.samples) > ROUNDING * base.samples:
            found.append(f"{each.name}: {each.samples:g} samples, and the base {base.samples:g} ({mode} scaling)")
        efficiency = each.throughput / base.throughput / each.ranks if base.throughput > 0 else math.nan
        if each.ranks > 1 and efficiency > 1 + ROUNDING:
            found.append(
                f"{each.name}: {efficiency:.3g} times what {each.ranks} ranks can do at the speed of one, and nothing "
                f"in these files explains it"
            )
    return found
