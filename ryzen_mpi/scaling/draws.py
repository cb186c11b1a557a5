"""From a calibration to the model's parameters, many times over: what was measured, resampled.

The launch is the unit: launches are drawn with replacement, then their rounds (a two-stage bootstrap: Davison and
Hinkley 1997, section 3.8). Draw 0 is the estimate itself. What two ranks cannot tell is drawn from its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling import stragglers
from ryzen_mpi.scaling.calibration import Amount, Calibration, Parameters
from ryzen_mpi.scaling.collective import fit_line, timed

DRAWS = 400
SEED = 20
Launch = Mapping[str, Any]


@dataclass(frozen=True)
class Values:
    """One set of the model's parameters; see calibration.Parameters for the names.

    Attributes:
        shares, step_s: samples of a step, ascending, and the usual seconds of one rank alone.
        curve: stragglers.quantiles.
        bus: 0 where the ranks of a node add up as fast as their cores, 1 where as its memory; between otherwise.
        drift: see simulate.Cluster.load.
        launch: factor of a launch on all its times.
    """

    shares: tuple[int, ...]
    step_s: tuple[float, ...]
    update_s: float
    contention: float
    sharing: float
    node_latency_s: float
    node_s_per_byte: float
    network_latency_s: float
    network_s_per_byte: float
    overhead_s: float
    overhead_shared_s: float
    curve: np.ndarray
    theta: float
    compression: Mapping[str, float]
    bus: float = 0.5
    drift: float = 0.0
    launch: float = 1.0


def draw(calibration: Calibration, gradient_bytes: int, count: int = DRAWS, seed: int = SEED) -> list[Values]:
    """`count` sets of parameters, the first of them the estimate. Pure: the same at every call. Raises UserError."""
    random = np.random.default_rng(seed)
    if calibration.parameters is not None:
        return [_by_hand(calibration.parameters, random if number else None) for number in range(count)]
    groups = _groups(calibration)
    spread, freedom = launch_spread(groups)
    found = [estimate(groups, gradient_bytes)]
    off = misfit(groups, found[0], gradient_bytes)
    for _ in range(count - 1):
        values = estimate({name: _resampled(group, random) for name, group in groups.items()}, gradient_bytes)
        launch = spread * random.standard_t(freedom) if freedom else 0.0
        wrong = off[0] * random.standard_t(off[1]) if off[1] else 0.0
        found.append(replace(values, bus=random.random(), drift=_drift(random), launch=math.exp(launch + wrong)))
    return found


def misfit(groups: Mapping[str, Sequence[Launch]], values: Values, gradient_bytes: int) -> tuple[float, int]:
    """Standard deviation of the log of measured steps of two ranks over the model's, and its degrees of freedom. Pure.

    What a model leaves out stays however often it is measured (Kennedy and O'Hagan 2001, section 2.1): without it the
    band of a quiet machine would shrink to nothing around an estimate that is a little off.
    """
    pair, alone = groups["two"] or groups["apart"], dict(zip(values.shares, values.step_s, strict=True))
    node, network = (
        (values.node_latency_s, values.node_s_per_byte),
        (values.network_latency_s, values.network_s_per_byte),
    )
    message = _message(groups, node, network, gradient_bytes)
    own, shared = _paces(values.curve, values.theta)
    logs = []
    for kind, factor, rest in (
        ("together", (1 + values.contention) * own, values.overhead_s),
        ("shared together", 2 * values.sharing * shared, values.overhead_shared_s),
    ):
        for share, seconds in turns(pair, kind).items():
            if share in alone:
                logs.append(math.log(seconds / (alone[share] * factor + message + rest)))
    return (math.sqrt(sum(log**2 for log in logs) / (len(logs) - 1)), len(logs) - 1) if len(logs) > 1 else (0.0, 0)


def _drift(random: np.random.Generator) -> float:
    """An even chance that the kernel shares cores fairly, else anything between that and never moving a rank."""
    return max(0.0, random.uniform(-1, 1))


def _groups(calibration: Calibration) -> dict[str, list[Launch]]:
    """Launches of one rank, of two on a node, and of two on two nodes. Raises UserError."""
    found: dict[str, list[Launch]] = {"one": [], "two": [], "apart": []}
    for launch in calibration.launches:
        if launch["threads"] == calibration.threads:
            found["one" if launch["ranks"] == 1 else "two" if launch["nodes"] == 1 else "apart"].append(launch)
    if not found["one"] or not (found["two"] or found["apart"]):
        raise UserError("the calibration lacks launches of one rank or of two", "--calibrate measures both")
    return found


def _resampled(launches: list[Launch], random: np.random.Generator) -> list[Launch]:
    """As many launches, and in each as many rounds, drawn with replacement."""
    chosen = [launches[i] for i in random.integers(0, len(launches), len(launches))] if launches else []
    return [_rounds_resampled(launch, random) for launch in chosen]


def _rounds_resampled(launch: Launch, random: np.random.Generator) -> Launch:
    cells = {}
    for name, cell in launch["cells"].items():
        picks = random.integers(0, len(cell["turn_s"]), len(cell["turn_s"]))
        rank_s = [[rank[i] for i in picks] for rank in cell["rank_s"]]
        cells[name] = {"rank_s": rank_s, "turn_s": [cell["turn_s"][i] for i in picks]}
    rows = [
        {**row, "s": [row["s"][i] for i in random.integers(0, len(row["s"]), len(row["s"]))]}
        for row in launch.get("collective", ())
    ]
    return {**launch, "cells": cells, "collective": rows}


def estimate(groups: Mapping[str, Sequence[Launch]], gradient_bytes: int) -> Values:
    """The parameters from launches as they are; those that two ranks leave open are 0 or in the middle. Pure."""
    alone = _usual(groups["one"], "alone")
    pair = groups["two"] or groups["apart"]
    beside, shares = _usual(pair, "beside"), tuple(sorted(alone))
    contention = max(0.0, float(np.median([beside[s] / alone[s] for s in shares if s in beside] or [1.0])) - 1)
    curve = stragglers.quantiles(_log_ratios([*groups["one"], *pair]))
    theta = stragglers.extremal_index(curve, _slowest_seen(pair))
    node = fit_line(timed(groups["two"]))
    network = tuple(part / way for part, way in zip(fit_line(timed(groups["apart"])), (2, 1), strict=True))
    message = _message(groups, node, network, gradient_bytes)
    own, shared = _paces(curve, theta)
    together = turns(pair, "together")
    beyond = [together[s] - alone[s] * (1 + contention) * own - message for s in shares if s in together]
    overhead = max(0.0, float(np.median(beyond or [0.0])))
    sharing, overhead_shared = _sharing(groups["two"], alone, shared, message) or (1.0, 2 * overhead)
    updates = [second for launch in groups["one"] for second in launch["update_s"]]
    return Values(
        shares,
        tuple(alone[s] for s in shares),
        min(float(np.median(updates)), 0.9 * min(alone.values())),
        contention,
        sharing,
        *node,
        *network,
        overhead,
        overhead_shared,
        curve,
        theta,
        _compression(pair),
    )


def _paces(curve: np.ndarray, theta: float) -> tuple[float, float]:
    """Expected time of two ranks in usual ones: of the slower where each has its core, of their core where they share.

    The mean factor of ranks on one core has the mean of any one's.
    """
    return stragglers.slowest(curve, stragglers.independent(2, theta)), stragglers.slowest(curve, 1.0)


def _message(
    groups: Mapping[str, Sequence[Launch]], node: tuple[float, float], network: tuple[float, float], size: int
) -> float:
    """Seconds of the sum of two ranks' gradients, on a node or on two."""
    return _line(node, size) if groups["two"] else _line((2 * network[0], network[1]), size)


def _usual(launches: Sequence[Launch], kind: str) -> dict[int, float]:
    """Median seconds of a step by samples."""
    found: dict[int, list[float]] = {}
    for launch in launches:
        for name, cell in launch["cells"].items():
            what, _, share = name.partition(":")
            if what == kind:
                found.setdefault(int(share), []).append(float(np.median(cell["rank_s"])))
    return {share: float(np.median(values)) for share, values in found.items()}


def turns(launches: Sequence[Launch], kind: str) -> dict[int, float]:
    """Mean seconds of a step, barrier to barrier, by samples a rank."""
    found: dict[int, list[float]] = {}
    for launch in launches:
        for name, cell in launch["cells"].items():
            what, _, share = name.partition(":")
            if what == kind:
                found.setdefault(int(share), []).append(float(np.mean(cell["turn_s"])))
    return {share: float(np.median(values)) for share, values in found.items()}


def _log_ratios(launches: Sequence[Launch]) -> np.ndarray:
    """Logs of step times over the usual one of the rank, launch and size; of ranks that computed for themselves."""
    parts = [np.zeros(0)]
    for launch in launches:
        for name, cell in launch["cells"].items():
            if name.partition(":")[0] in ("alone", "beside"):
                seconds = np.asarray(cell["rank_s"]).reshape(launch["ranks"], -1)
                parts.append(np.log(seconds / np.median(seconds, axis=1, keepdims=True)).ravel())
    return np.concatenate(parts)


def _slowest_seen(pair: Sequence[Launch]) -> float:
    """Mean over steps of the slower of two ranks side by side, each in its own usual time."""
    parts = []
    for launch in pair:
        for name, cell in launch["cells"].items():
            if name.startswith("beside:"):
                seconds = np.asarray(cell["rank_s"]).reshape(launch["ranks"], -1)
                parts.append((seconds / np.median(seconds, axis=1, keepdims=True)).max(axis=0).mean())
    return float(np.mean(parts)) if parts else 1.0


def _sharing(
    two: Sequence[Launch], alone: Mapping[int, float], pace: float, message: float
) -> tuple[float, float] | None:
    """(sharing, overhead_shared_s) of two ranks on the cores of one; None where it was not measured."""
    usual, both = _usual(two, "shared beside"), turns(two, "shared together")
    shares = [share for share in usual if share in alone and share in both]
    if not shares:
        return None
    sharing = float(np.median([usual[s] / (2 * alone[s]) for s in shares]))
    beyond = [both[s] - 2 * sharing * alone[s] * pace - message for s in shares]
    return sharing, max(0.0, float(np.median(beyond)))


def _line(line: tuple[float, float], size: int) -> float:
    return line[0] + line[1] * size


def _compression(pair: Sequence[Launch]) -> dict[str, float]:
    """Seconds a gradient byte beyond those of the uncompressed sum, by method."""
    found: dict[str, list[float]] = {}
    for launch in pair:
        rows = launch.get("compression", {})
        for name, row in rows.items():
            plain = float(np.median(rows["none"]["s"])) / rows["none"]["bytes"]
            found.setdefault(name, []).append(max(0.0, float(np.median(row["s"])) / row["bytes"] - plain))
    return {name: float(np.median(values)) for name, values in found.items()}


def launch_spread(groups: Mapping[str, Sequence[Launch]]) -> tuple[float, int]:
    """Standard deviation of the log of a launch's speed among its like, and its degrees of freedom. Pure."""
    squares, freedom = 0.0, 0
    for launches in groups.values():
        if len(launches) < 2:
            continue
        names = set.intersection(*(set(launch["cells"]) for launch in launches))
        logs = np.array([[math.log(np.mean(l_["cells"][name]["turn_s"])) for name in sorted(names)] for l_ in launches])
        effects = (logs - logs.mean(axis=0)).mean(axis=1)
        squares, freedom = squares + float((effects**2).sum()), freedom + len(launches) - 1
    return (math.sqrt(squares / freedom), freedom) if freedom else (0.0, 0)


def _by_hand(given: Parameters, random: np.random.Generator | None) -> Values:
    def one(amount: Amount | None) -> float:
        if amount is None or random is None or amount.low == amount.high:
            return 0.0 if amount is None else amount.value
        if amount.low > 0:  # log-normal with the interval given
            middle, width = math.log(amount.value), math.log(amount.high / amount.low) / (2 * 1.96)
            return math.exp(random.normal(middle, width))
        return random.triangular(amount.low, amount.value, amount.high)

    shares = tuple(sorted(given.step_s))
    pace = random.normal() if random is not None else 0.0  # what holds for one size holds for the others
    positions = np.linspace(0, 1, len(given.straggler_quantiles))
    curve = np.interp(stragglers.LEVELS, positions, given.straggler_quantiles)
    width = [math.log(given.step_s[s].high / given.step_s[s].low) / (2 * 1.96) for s in shares]
    return Values(
        shares,
        tuple(given.step_s[s].value * math.exp(w * pace) for s, w in zip(shares, width, strict=True)),
        one(given.update_s),
        one(given.contention),
        one(given.sharing),
        *map(one, (given.node_latency_s, given.node_s_per_byte, given.network_latency_s, given.network_s_per_byte)),
        *map(one, (given.overhead_s, given.overhead_shared_s)),
        curve,
        min(1.0, one(given.straggler_theta)),
        {name: one(amount) for name, amount in given.compression_s_per_byte.items()},
        0.5 if random is None else random.random(),
        0.0 if random is None else _drift(random),
        1.0 if random is None else math.exp(given.launch_spread * random.normal()),
    )
