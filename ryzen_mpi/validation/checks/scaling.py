"""Scaling (E10): what the phase's ranks gain over one rank, over one node, and over the phase before. Measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

if TYPE_CHECKING:
    from ryzen_mpi.scaling.record import Launch

PROFILE = "scaling_benchmark"
REPEATS, STEPS = 5, 20
_FACTORS = ("load_balance", "communication_efficiency", "computation_scaling")


@check(
    "scaling", "E10", "throughput and efficiency from one rank to the phase's, launched and repeated", "driver", 7200
)
def scaling(context: Context) -> Findings:
    """Options: `repeats` and `steps`. Goes on with the launches its folder holds. Local: starts ranks itself."""
    from ryzen_mpi.scaling.compose import report
    from ryzen_mpi.scaling.measure import measure
    from ryzen_mpi.scaling.plan import make_plan

    assert context.nodes is not None
    a_node, before = ranks_before(context)
    plan = make_plan(
        PROFILE,
        context.overrides,
        sorted({1, a_node, before, context.ranks} - {0}),
        ("strong", "weak"),
        context.nodes,
        context.count("repeats", REPEATS),
        context.count("steps", STEPS),
    )
    kept = measure(plan, context.folder / "launches", context.nodes, context.tell)
    found = report(kept.launches, dict.fromkeys(plan.modes, plan.ranks), kept.failed, kept.values)
    evidence = [found["headline"], *found["insufficient"]]
    if context.ranks == 1 or not (found["strong"] and found["weak"]):
        figures: Sequence[Measured] = [not_measurable("throughput", "samples/s", "; ".join(evidence))]
    else:
        figures = list(_figures(found, kept.launches, context.ranks, a_node, before))
    return Findings(figures, impossible=tuple(found["problems"]), evidence=tuple(evidence), details={"scaling": found})


def ranks_before(context: Context) -> tuple[int, int]:
    """Ranks of one node, and of the phase before; 0 where there is none. Pure."""
    a_node = min(context.phase.ranks_per_node, context.ranks)
    previous = context.ranks - a_node
    return (a_node, previous) if previous > 0 else (0, 0)


def _figures(found: dict[str, Any], launches: Sequence[Launch], ranks: int, a_node: int, before: int):
    strong, weak = (_point(found[mode], ranks) for mode in ("strong", "weak"))
    rates = tuple(launch.throughput for launch in launches if (launch.mode, launch.ranks) == ("weak", ranks))
    yield _measured("throughput", weak["throughput"], f"weak scaling, {ranks} ranks", rates)
    if a_node:
        yield against("efficiency", launches, a_node, ranks, "weak, against the ranks of one node")
        yield against("efficiency_previous", launches, before, ranks, f"weak, against {before} ranks")
    else:
        yield _measured("efficiency", strong["efficiency"], "strong, against one rank")
    yield _measured("efficiency_strong", strong["efficiency"], "against one rank")
    yield _measured("efficiency_weak", weak["efficiency"], "against one rank")
    yield _measured("communication_share", weak["communication_share"], "of a step, weak scaling")
    for name in _FACTORS:
        yield _measured(name, strong[name], "strong, POP's factor of the efficiency")
    shared = float(strong["oversubscribed"] or weak["oversubscribed"])
    yield Measured("oversubscribed", shared, "1", why="1: ranks share cores, and the rest says nothing about scaling")


def _point(series: dict[str, Any], ranks: int) -> dict[str, Any]:
    return next(point for point in series["points"] if point["ranks"] == ranks)


def _measured(name: str, fig: dict[str, Any], why: str, samples: tuple[float, ...] = ()) -> Measured:
    return Measured(name, fig["value"], fig["unit"], fig["n"], fig["low"], fig["high"], samples, why)


def against(name: str, launches: Sequence[Launch], base: int, ranks: int, why: str) -> Measured:
    """Weak efficiency against another number of ranks, paired by repeats. Pure."""
    from ryzen_mpi.scaling.estimate import geometric

    weak = {(launch.ranks, launch.repeat): launch.measured_s for launch in launches if launch.mode == "weak"}
    repeats = sorted({repeat for _, repeat in weak})
    pairs = [(weak.get((base, repeat)), weak.get((ranks, repeat))) for repeat in repeats]
    ratios = [one / many for one, many in pairs if one and many]
    if not ratios:
        return not_measurable(name, "1", "no repeat has both")
    figure = geometric(ratios)
    return Measured(name, figure.value, "1", figure.n, figure.low, figure.high, tuple(ratios), why)
