"""The documents' Throughput(P) = Base P (1 + gain), fitted to measurements, beside two laws that know a limit.

Amdahl 1967 in Gunther's form, X(P) = Base P / (1 + s (P - 1)), and the universal scalability law (Gunther 1993; 2007,
Guerrilla Capacity Planning, chapter 4), X(P) = Base P / (1 + s (P - 1) + k P (P - 1)). All are fitted to logarithms, so
that errors are relative; intervals by a bootstrap over launches within each P.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ryzen_mpi.errors import UserError
from ryzen_mpi.figures import Figure

REPEATS = 300
SEED = 7
FAR = 4096
Points = Mapping[int, Sequence[float]]
"""Throughput (samples/s) of every launch, by number of ranks."""


@dataclass(frozen=True)
class Fit:
    """A law fitted to measurements.

    Attributes:
        name: "documents", "amdahl" or "usl".
        parameters: by name, with 95 % intervals; `base` in samples/s, the others plain numbers.
        residuals: measured over fitted, less 1, by number of ranks.
        left_out: relative error of the prediction of each P above 1 from all others; empty where too few are left.
    """

    name: str
    parameters: Mapping[str, Figure]
    residuals: Mapping[int, float]
    left_out: Mapping[int, float]

    @property
    def left_out_error(self) -> float:
        """Median over P of `left_out`; NaN where there is none."""
        return float(np.median(list(self.left_out.values()))) if self.left_out else float("nan")

    def at(self, ranks: int) -> float:
        """Samples a second of `ranks` ranks by this law."""
        values = {name: figure.value for name, figure in self.parameters.items()}
        return LAWS[self.name][1](ranks, values)


def documents(ranks: float, values: Mapping[str, float]) -> float:
    """Base P (1 + gain); a single rank gains nothing."""
    return values["base"] * ranks * (1 + (values["gain"] if ranks > 1 else 0.0))


def usl(ranks: float, values: Mapping[str, float]) -> float:
    """Gunther's law; Amdahl's where there is no coherence cost."""
    serial, coherence = values["serial"], values.get("coherence", 0.0)
    return values["base"] * ranks / (1 + serial * (ranks - 1) + coherence * ranks * (ranks - 1))


def points_of(report: Mapping[str, Any], mode: str = "weak") -> dict[int, list[float]]:
    """Throughput of each launch of a scaling report (`ryzen-mpi scale`) by its ranks. Pure. Raises UserError."""
    points: dict[int, list[float]] = {}
    try:
        for launch in report["launches"]:
            if launch["mode"] == mode:
                points.setdefault(int(launch["ranks"]), []).append(launch["samples"] / launch["measured_s"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"this is no scaling report: {type(error).__name__} {error}") from None
    _check(points)
    return points


def fit_documents(points: Points) -> dict[str, float]:
    """base: geometric mean of one rank; gain: the constant that fits the others best. Pure."""
    base = float(np.mean(np.log(points[1])))
    beyond = [float(np.mean(np.log(values))) - np.log(ranks) - base for ranks, values in points.items() if ranks > 1]
    return {"base": float(np.exp(base)), "gain": float(np.expm1(np.mean(beyond)))}


def _fit_usl(points: Points, free: int) -> dict[str, float]:
    """base and the first `free` of serial and coherence, none of them negative. Pure."""
    from scipy.optimize import least_squares

    ranks = np.array(sorted(points), float)
    logs = np.array([np.mean(np.log(points[int(p)])) for p in ranks])
    start = [logs[0] - np.log(ranks[0]), *([0.01] * free)]

    def errors(x: np.ndarray) -> np.ndarray:
        serial, coherence = (*x[1:], 0.0, 0.0)[:2]
        return x[0] + np.log(ranks) - np.log1p(serial * (ranks - 1) + coherence * ranks * (ranks - 1)) - logs

    found = least_squares(errors, start, bounds=([-np.inf, *([0.0] * free)], np.inf), x_scale=[1.0, *([0.01] * free)]).x
    return {"base": float(np.exp(found[0]))} | dict(zip(("serial", "coherence"), map(float, found[1:]), strict=False))


Law = tuple[Callable[[Points], dict[str, float]], Callable[[float, Mapping[str, float]], float], int]
LAWS: dict[str, Law] = {
    "documents": (fit_documents, documents, 2),
    "amdahl": (lambda points: _fit_usl(points, 1), usl, 2),
    "usl": (lambda points: _fit_usl(points, 2), usl, 3),
}
"""By name: how it is fitted, what it says, and how many numbers of ranks it needs."""


def fit(name: str, points: Points, repeats: int = REPEATS) -> Fit:
    """The law `name` fitted to `points`, which hold one rank and others. Pure. Raises UserError."""
    _check(points)
    fitting, law, least = LAWS[name]
    if len(points) < least:
        raise UserError(f"{name} needs {least} numbers of ranks, and {len(points)} were measured")
    values, random = fitting(points), np.random.default_rng(SEED)
    drawn = [fitting({p: random.choice(x, len(x)) for p, x in points.items()}) for _ in range(repeats)]
    n = sum(map(len, points.values()))
    parameters = {}
    for key, value in values.items():
        low, high = np.percentile([one[key] for one in drawn], (2.5, 97.5))
        parameters[key] = Figure(value, float(min(low, value)), float(max(high, value)), n)
    residuals = {p: _typical(x) / law(p, values) - 1 for p, x in points.items()}
    return Fit(name, parameters, residuals, _left_out(name, points))


def _typical(values: Sequence[float]) -> float:
    """The geometric mean, which the fits are to."""
    return float(np.exp(np.mean(np.log(values))))


def _left_out(name: str, points: Points) -> dict[int, float]:
    fitting, law, least = LAWS[name]
    errors = {}
    for left in sorted(points):
        rest = {p: x for p, x in points.items() if p != left}
        if left > 1 and len(rest) >= least:
            errors[left] = abs(law(left, fitting(rest)) / _typical(points[left]) - 1)
    return errors


def gains(points: Points, repeats: int = REPEATS) -> dict[int, Figure]:
    """The documents' gain for each P by itself: X(P) / (Base P) - 1, with its interval. Pure. Raises UserError."""
    _check(points)
    random, found = np.random.default_rng(SEED), {}
    for p, values in sorted(points.items()):
        if p == 1:
            continue
        drawn = [
            np.mean(random.choice(values, len(values))) / p / np.mean(random.choice(points[1], len(points[1]))) - 1
            for _ in range(repeats)
        ]
        value = float(np.mean(values) / p / np.mean(points[1]) - 1)
        low, high = np.percentile(drawn, (2.5, 97.5))
        found[p] = Figure(value, float(min(low, value)), float(max(high, value)), len(values))
    return found


def misses(points: Points) -> list[str]:
    """What the documents' formula misses here, in sentences for a person. Pure. Raises UserError."""
    formula, laws = fit("documents", points), ["amdahl", *(["usl"] if len(points) >= 3 else [])]
    worst = max(formula.residuals, key=lambda p: abs(formula.residuals[p]))
    gain, most = formula.parameters["gain"], max(points)
    lines = [
        f"fitted gain {100 * gain.value:+.1f} % ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}); measured at {worst} "
        f"ranks: {100 * formula.residuals[worst]:+.1f} % off the formula",
        f"it grows without bound: {FAR} ranks would do {formula.at(FAR):.4g} samples/s, {FAR / most:.0f} times what "
        f"{most} did, whatever the network",
    ]
    if gain.low > 0:
        lines.append(
            "a gain above 0 means that a rank is faster among others than alone: beyond what caches give to smaller "
            "shares, that is an error of measurement"
        )
    others = {name: fit(name, points) for name in laws}
    known = [one for one in (formula, *others.values()) if one.left_out]
    if known:
        compared = ", ".join(f"{one.name} {100 * one.left_out_error:.1f} %" for one in known)
        lines.append(f"median error where one number of ranks is left out and predicted from the others: {compared}")
    if len(points) < 3:
        lines.append("two numbers of ranks fit any law of two parameters: only a third can tell them apart")
    return lines


def _check(points: Points) -> None:
    if 1 not in points or len(points) < 2:
        raise UserError("a fit needs one rank and at least one other number of ranks", f"given: {sorted(points)}")
    bad = [p for p, x in points.items() if not len(x) or not np.all(np.isfinite(x)) or min(x) <= 0 or p < 1]
    if bad:
        raise UserError(f"throughputs of {bad} ranks are not positive finite numbers")
