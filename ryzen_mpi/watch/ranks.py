"""What each rank does and holds: time of a step, memory, heat, by the places that ranks recorded. All are pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ryzen_mpi.cluster.topology import cpulist_text
from ryzen_mpi.report.advice import UNBALANCED
from ryzen_mpi.report.run_facts import RunFacts
from ryzen_mpi.report.run_measures import newest_world, rank_times, slow_ranks
from ryzen_mpi.units import bytes_text, duration_text

RANK_STEPS = 50
"""Steps that a rank's times are means of."""


def rank_rows(facts: RunFacts, sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a rank, in their order: seconds of a step computed, waited and otherwise used, memory, heat, and whether
    the rank is slower than the others. `facts` has the newest steps alone."""
    times, steps = rank_times(facts), facts.steps
    if steps is None:
        return []
    world = newest_world(steps)
    slow = {one.rank: one.more for one in slow_ranks(facts) if one.more.low > UNBALANCED}
    places = {place.rank: place for place in facts.places}
    rows = []
    for rank in range(world.rank_step_s.shape[1]):
        place = places.get(rank)
        computation, communication, other = (
            (_number(getattr(times, name)[rank]) for name in ("computation_s", "communication_s", "other_s"))
            if times is not None and rank < len(times.computation_s)
            else (None, None, None)
        )
        rss, heat = _number(world.rank_rss_bytes[-1, rank]), _sampled(sample, "rank_temperature_c", rank)
        used, free = (_sampled(sample, f"rank_numa_{what}_bytes", rank) for what in ("used", "free"))
        row = {
            "rank": rank,
            "host": place.host if place else "",
            "cores": cpulist_text(place.cpus) if place and place.cpus else "",
            "computation_s": computation,
            "communication_s": communication,
            "other_s": other,
            "computation": _text(computation, duration_text),
            "communication": _text(communication, duration_text),
            "memory_bytes": rss,
            "memory": _text(rss, bytes_text),
            "numa": f"{bytes_text(used)} of {bytes_text(used + free)}" if used is not None and free is not None else "",
            "temperature": _text(heat, lambda value: f"{value:.0f} °C"),
            "slower": f"{100 * slow[rank].value:.0f} % slower" if rank in slow else "",
        }
        rows.append(row)
    return rows


def nodes(facts: RunFacts, sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a node: what its ranks hold together, of what it has; None where that was not recorded."""
    if facts.steps is None:
        return []
    newest = newest_world(facts.steps).rank_rss_bytes[-1]
    rows = []
    for host in dict.fromkeys(place.host for place in facts.places):
        places = [place for place in facts.places if place.host == host and place.rank < len(newest)]
        if not places:
            continue
        held = float(np.nansum([newest[place.rank] for place in places]))
        limits = [_sampled(sample, "rank_memory_limit_bytes", place.rank) for place in places]
        total = next((one for one in [*limits, *(place.node_memory_bytes for place in places)] if one), None)
        free = [_sampled(sample, "rank_memory_available_bytes", place.rank) for place in places]
        available = next((one for one in free if one is not None), None)
        of = f" of {bytes_text(total)}" if total else ""
        rows.append(
            {
                "host": host,
                "ranks": len(places),
                "held_bytes": held,
                "total_bytes": total,
                "available_bytes": available,
                "text": f"{bytes_text(held)}{of}",
                "available": f"{bytes_text(available)} available" if available is not None else "",
                "share": held / total if total else None,
            }
        )
    return rows


def communication_rows(sample: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the newest sample tells of communication, as names and texts; what is not known is left out."""
    times = [("median", "allreduce_p50_s"), ("99th percentile", "allreduce_p99_s"), ("mean", "allreduce_mean_s")]
    found = [(name, _of(sample, key)) for name, key in times]
    rows = []
    if told := [f"{duration_text(value)} {name}" for name, value in found if value is not None]:
        rows.append(("gradient reduction", ", ".join(told)))
    if (rate := _of(sample, "bandwidth_used")) is not None:
        rows.append(("gradients exchanged", f"{bytes_text(rate)}/s while reducing"))
    if (sent := _of(sample, "network_bytes")) is not None:
        rows.append(("sent between nodes", f"{bytes_text(sent)} a step"))
    for name, key in (("TCP segments sent again", "rank_retransmits"), ("packets lost", "rank_packets_lost")):
        values = np.atleast_1d(np.asarray(sample.get(key, ()), np.float64))
        if np.isfinite(values).any():
            rows.append((name, f"{np.nansum(values):,.0f} since the sample before"))
    return rows


def _of(sample: Mapping[str, Any], name: str) -> float | None:
    return _number(sample.get(name))


def _sampled(sample: Mapping[str, Any], name: str, rank: int) -> float | None:
    values = np.atleast_1d(np.asarray(sample.get(name, ()), np.float64))
    return _number(values[rank]) if rank < len(values) else None


def _number(value: Any) -> float | None:
    """As JSON has it; None for what is no number."""
    known = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _text(value: float | None, form: Any) -> str:
    return "" if value is None else form(value)
