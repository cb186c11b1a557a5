"""A simulation from a person's question to its answer as JSON values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ryzen_mpi.bench.disturbance import DISTURBED_SHARE
from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling import model
from ryzen_mpi.scaling.calibrate import checkpoint
from ryzen_mpi.scaling.calibration import Calibration
from ryzen_mpi.scaling.collective import OURS, Link, largest_over_line, timed
from ryzen_mpi.scaling.draws import DRAWS, Values, draw, turns
from ryzen_mpi.scaling.reliability import saving
from ryzen_mpi.scaling.simulate import Cluster, predict, traffic
from ryzen_mpi.scaling.strategies import candidates
from ryzen_mpi.units import duration_text

ASSUMED_LINK = (50.0, 100.0)
"""Microseconds and Gbit/s: the least that the acceptance of a network asks for (E7: below 100 us there and back)."""
RESTART_S = 60.0
"""From a failure to the first new step; an attempt of the supervisor takes about as long to start on many ranks."""
MOST_RANKS = 1 << 20
OFF_THE_LINE = 0.1
"""Of a step. Calibrations measured so far: up to 0.08, and 0.16 to 0.20 where two nodes sent one after the other."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        ranks: numbers of them, ascending.
        per_node, cores: ranks of a node; its cores, where it is not a node as calibrated.
        network: (microseconds of a message, Gbit/s of a node's link), or None: as calibrated, else ASSUMED_LINK.
        mtbf_hours: between failures of one node, or None: as calibrated, else nothing is said of saving.
        restart_s: from a failure to the first new step.
    """

    ranks: tuple[int, ...]
    per_node: int = 4
    cores: int | None = None
    network: tuple[float, float] | None = None
    mtbf_hours: float | None = None
    restart_s: float = RESTART_S
    draws: int = DRAWS


def parse_ranks(text: str) -> tuple[int, ...]:
    """Numbers of ranks of '8,12,16' or '8,...,4096' (doubling), ascending. Pure. Raises UserError."""
    hint = "numbers above 0 with commas between, as in 8,12,16 or 8,16,...,4096"
    found: list[int] = []
    words = [word.strip() for word in text.split(",")]
    for number, word in enumerate(words):
        if word in ("...", "…") and 0 < number < len(words) - 1 and re.fullmatch(r"\d+", words[number + 1]):
            while 2 * found[-1] < int(words[number + 1]):
                found.append(2 * found[-1])
        elif re.fullmatch(r"\d+", word) and 1 <= int(word) <= MOST_RANKS:
            found.append(int(word))
        else:
            raise UserError(f"--ranks {text}: {word!r} is no number of ranks (1 to {MOST_RANKS})", hint)
    return tuple(sorted(set(found)))


def parse_network(text: str | None) -> tuple[float, float] | None:
    """(microseconds, Gbit/s) of '20,100'. Pure. Raises UserError."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", text)
    if not match or float(match[2]) <= 0:
        raise UserError(f"--network {text}: no network", "LATENCY_US,GBIT, as in 20,100: 20 us a message, 100 Gbit/s")
    return float(match[1]), float(match[2])


def link_of(question: Question, calibration: Calibration, values: Values) -> tuple[Link, str]:
    """The link between nodes, and how it is known. Pure."""
    if question.network is not None:
        given, reason = question.network, "as given (--network)"
    elif values.network_s_per_byte > 0:
        by_hand = calibration.parameters is not None
        return Link(values.network_latency_s, values.network_s_per_byte), "given by hand" if by_hand else "calibrated"
    else:
        given, reason = ASSUMED_LINK, "ASSUMED, not measured: the least the acceptance of a network asks for (E7)"
    return Link(given[0] / 1e6, 8 / (given[1] * 1e9)), f"{given[0]:g} us, {given[1]:g} Gbit/s a node, {reason}"


def answer(
    calibration: Calibration, settings: Settings, question: Question, report: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything that is predicted, JSON-able. Pure: the same at every call. Raises UserError.

    `report`: a scaling report, for the documents' formula to be fitted to, in place of the calibration's own launches.
    """
    calibration.check_model(settings)
    draws = draw(calibration, traffic(settings, 1, 1)[0], question.draws)
    link, reason = link_of(question, calibration, draws[0])
    cores, floating = question.cores or calibration.cores, settings.hardware.bind == "none"
    cluster = Cluster(question.per_node, cores, calibration.threads, calibration.memory_bytes, link, floating)
    written, failures = checkpoint(calibration), calibration.failures
    if question.mtbf_hours is not None:
        failures = {"mtbf_node_s": 3600 * question.mtbf_hours, "reason": "as given (--mtbf-hours)"}
    rows = []
    for ranks in question.ranks:
        found = predict(draws, settings, cluster, ranks)
        row = asdict(found) | {"strategies": [asdict(one) for one in candidates(draws[0], settings, cluster, ranks)]}
        row["best"] = next((one for one in row["strategies"] if _can_be_had(one)), None)
        row["saving"] = None
        if written and failures:
            kept = saving(written[0], float(failures["mtbf_node_s"]), found.nodes, question.restart_s)
            row["saving"] = asdict(kept) | {"steps": max(1, round(kept.interval_s / found.step_s.value))}
        rows.append(row)
    mode = "weak" if settings.training.global_batch is None else "strong"
    points = measured(calibration) if report is None else model.points_of(report, mode)
    return {
        "kind": "ryzen_mpi simulation",
        "format": 1,
        "machine": dict(calibration.machine),
        "made": calibration.made,
        "cluster": {"per_node": question.per_node, "cores": cores, "threads": calibration.threads},
        "network": reason,
        "failures": dict(failures) if failures else None,
        "checkpoint_s": written[0] if written else None,
        "by_threads": by_threads(calibration),
        "warnings": warnings(calibration, draws[0], question),
        "rows": rows,
        "documents": documents(points, question.ranks) if points else None,
    }


def _can_be_had(strategy: dict[str, Any]) -> bool:
    """Whether it fits, is built, and learns what the uncompressed sum learns."""
    return strategy["fits"] and strategy["same_learning"] and strategy["algorithm"] == OURS


def measured(calibration: Calibration) -> dict[int, list[float]]:
    """Throughput of each launch of one and of two ranks, at the most samples a rank measured; empty by hand."""
    points: dict[int, list[float]] = {}
    for launch in calibration.launches:
        if launch["threads"] != calibration.threads or launch["nodes"] > 1:
            continue
        kind = "alone" if launch["ranks"] == 1 else "together"
        shares = [int(name.partition(":")[2]) for name in launch["cells"] if name.startswith(f"{kind}:")]
        if shares:
            seconds = float(np.mean(launch["cells"][f"{kind}:{max(shares)}"]["turn_s"]))
            points.setdefault(launch["ranks"], []).append(launch["ranks"] * max(shares) / seconds)
    return points if 1 in points and len(points) > 1 else {}


def by_threads(calibration: Calibration) -> dict[str, float]:
    """Samples a second of one rank alone by its threads, at the most samples measured; empty by hand."""
    found: dict[int, list[float]] = {}
    for launch in calibration.launches:
        shares = [int(name.partition(":")[2]) for name in launch["cells"] if name.startswith("alone:")]
        if shares:
            seconds = np.median(launch["cells"][f"alone:{max(shares)}"]["rank_s"])
            found.setdefault(int(launch["threads"]), []).append(max(shares) / float(seconds))
    return {str(threads): float(np.median(rates)) for threads, rates in sorted(found.items())}


def documents(points: dict[int, list[float]], ranks: Sequence[int]) -> dict[str, Any]:
    """The documents' formula fitted to launches, what it says of `ranks`, and what it misses. Pure."""
    formula = model.fit("documents", points)
    return {
        "base": asdict(formula.parameters["base"]),
        "gain": asdict(formula.parameters["gain"]),
        "throughput": {str(p): formula.at(p) for p in ranks},
        "misses": model.misses(points),
    }


def warnings(calibration: Calibration, values: Values, question: Question) -> list[str]:
    """What a person has to know before believing the rows, most important first. Pure."""
    found = []
    waited = max(
        (
            cell["waited_share"] or 0.0
            for launch in calibration.launches
            for name, cell in launch["cells"].items()
            if not name.startswith("shared")  # there they wait for one another
        ),
        default=0.0,
    )
    if waited > DISTURBED_SHARE:
        found.append(
            f"the calibration was disturbed: ranks waited for a core that others had up to {100 * waited:.0f} % of the "
            "time; what others did then is taken for this machine's stragglers. Measure on an idle machine"
        )
    alone = [one for one in calibration.launches if (one["ranks"], one["threads"]) == (1, calibration.threads)]
    if calibration.launches and len(alone) < 2:
        found.append("fewer than two launches of one rank: the band knows nothing of what differs between launches")
    found += _off_the_line(calibration)
    most = max(question.ranks)
    if most > 64 and calibration.launches:
        found.append(
            f"{most} ranks from launches of 1 and 2: the stragglers' tail is extrapolated, see docs/simulator.md"
        )
    return found


def _off_the_line(calibration: Calibration) -> list[str]:
    """Where the sum of the whole gradient is far from the line that predictions go by, next to a step of it."""
    found = []
    for where, several in (("in a node", False), ("between nodes", True)):
        pair = [one for one in calibration.launches if one["ranks"] == 2 and (one["nodes"] > 1) == several]
        points, steps = timed(pair), turns(pair, "together")
        if not points or not steps:
            continue
        size, seconds, line = largest_over_line(points)
        off = abs(seconds - line) / min(steps.values())
        if off > OFF_THE_LINE:
            found.append(
                f"the all-reduce {where} does not grow as latency + bytes / bandwidth: {size / 2**20:.3g} MiB took "
                f"{duration_text(seconds)}, and the line through all sizes says {duration_text(line)}. Predictions are "
                f"off by up to {100 * off:.0f} % of a step: look why this network has two speeds"
            )
    return found
