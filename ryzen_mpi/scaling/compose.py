"""The scaling report: launches in, figures, problems and a headline out. Pure; the shape is in docs/scaling.md."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ryzen_mpi.scaling import account, comparable, plausible
from ryzen_mpi.scaling.measure import Failed
from ryzen_mpi.scaling.record import MODES, Launch, content
from ryzen_mpi.scaling.show import figure_text, percent

FORMAT = 1


def report(
    launches: Sequence[Launch],
    asked: Mapping[str, Sequence[int]],
    failed: Sequence[Failed] = (),
    values: Sequence[Any] | None = None,
    made: float | None = None,
) -> dict[str, Any]:
    """The report of these launches as JSON values. Pure where `made` is given.

    Args:
        asked: the numbers of ranks there should be, by mode.
        failed: launches that measured nothing.
        values: the launches as they were read, whose hashes are looked at; the launches themselves when absent.
        made: epoch of the report; now when absent.
    """
    read = list(values) if values is not None else [content(launch) for launch in launches]
    problems, series = plausible.problems(read), {}
    if _can_divide(launches):
        for mode in MODES:
            problems += account.unexplained(launches, mode)
            series[mode] = account.series(launches, mode)
    done = {(launch.mode, launch.ranks, launch.repeat) for launch in launches}
    insufficient = account.shortages(launches, dict(asked)) + [
        f"launch {each.number} ({each.mode}, {each.ranks} ranks) failed: {each.why.splitlines()[0]}"
        for each in failed
        if (each.mode, each.ranks, each.repeat) not in done  # tried again since, and measured
    ]
    first = launches[0] if launches else None
    result = {
        "format": FORMAT,
        "made": time.time() if made is None else made,
        "machine": dict(first.machine) if first else {},
        "profile": first.profile if first else "",
        "overrides": list(first.overrides) if first else [],
        "headline": "",
        "problems": problems,
        "insufficient": insufficient,
        "oversubscribed": any(launch.oversubscribed for launch in launches),
        "disturbed": account.disturbed(launches),
        "strong": series.get("strong"),
        "weak": series.get("weak"),
        "launches": read,
        "failed": [asdict(each) for each in failed],
        "loss_table": loss_table(launches),
    }
    return result | {"headline": headline(result)}


def _can_divide(launches: Sequence[Launch]) -> bool:
    """Whether every time is one that a ratio can be taken of; where not, `plausible` has said so."""
    return all(
        launch.measured_s > 0 and launch.samples > 0 and min(launch.rank_computation_s) > 0 for launch in launches
    )


def headline(result: Mapping[str, Any]) -> str:
    """The report in a line: what is wrong first, then what was found at the most ranks with a core each, and at the
    most. Pure."""
    parts = []
    if result["problems"]:
        more = f" (and {len(result['problems']) - 1} more)" if len(result["problems"]) > 1 else ""
        parts.append(f"INVALID: {result['problems'][0]}{more}")
    if result["oversubscribed"]:
        crowded = sorted(
            {p["ranks"] for m in MODES for p in (result[m] or {}).get("points", []) if p["oversubscribed"]}
        )
        who = ", ".join(map(str, crowded)) or "some"
        parts.append(f"OVERSUBSCRIBED: {who} ranks share cores, which says nothing about scaling on a core each")
    for mode in MODES:
        points = [point for point in (result[mode] or {}).get("points", []) if point["ranks"] > 1]
        alone = [point for point in points if not point["oversubscribed"]]
        for point in [*alone[-1:], *(each for each in points[-1:] if each["oversubscribed"])]:
            parts.append(
                f"{mode}: {point['speedup']['value']:.3g} times one rank on {point['ranks']}"
                f"{' that share cores' if point['oversubscribed'] else ''}, efficiency "
                f"{figure_text(point['efficiency'], percent)} %"
            )
    if result["disturbed"]:
        parts.append(
            f"{len(result['disturbed'])} of {len(result['launches'])} launches were disturbed by other programs"
        )
    if result.get("insufficient"):
        parts.append(f"INSUFFICIENT: {result['insufficient'][0]}")
    return "; ".join(parts) or "nothing was measured"


def loss_table(launches: Sequence[Launch]) -> dict[str, Any]:
    """The losses of every number of ranks at the batch most of them trained, step by step. Pure.

    "largest_difference" is relative, over the first steps and all numbers of ranks; rounding allows "tolerance".
    """
    strong = [launch for launch in launches if launch.mode == "strong"] or list(launches)
    if not strong:
        return {}
    batch = strong[0].global_batch
    chosen = {launch.ranks: launch for launch in reversed(strong) if launch.global_batch == batch}
    found = [max(each.apart) for each in comparable.differences(strong, "losses") if each.first.global_batch == batch]
    return {
        "global_batch": batch,
        "losses": {str(ranks): list(launch.losses) for ranks, launch in sorted(chosen.items())},
        "largest_difference": max(found, default=0.0),
        "tolerance": comparable.tolerance(strong[0], "losses"),
    }
