"""E5: P ranks learn what one process learns, as fast, and the check can tell where they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

if TYPE_CHECKING:
    from ryzen_mpi.validation.convergence import Comparison
    from ryzen_mpi.validation.trainings import Curve

SEEDS, STEPS, EXACT_STEPS = 6, 60, 25
DTYPES = ("float32", "bfloat16")
LIMIT_S = 180.0
"""Of each of the two launches where every rank has a core."""
KINDS = ("again", "summed", "frozen")


@check(
    "convergence",
    ids="E5",
    about="losses of all ranks against one process: exactly in float64, statistically in float32 and bfloat16",
    where="driver",
    limit_s=400,
    least_ranks=2,
)
def convergence(context: Context) -> Findings:
    """Two launches, one of one rank. Options: seeds (pairs), first_seed, steps (of each), exact_steps."""
    from ryzen_mpi.validation import convergence as measure

    seeds, steps = context.count("seeds", SEEDS, 2), context.count("steps", STEPS, measure.LEAST_STEPS)
    first = context.count("first_seed", measure.FIRST_SEED, 0)
    exact, ranks = context.count("exact_steps", EXACT_STEPS), context.ranks
    words = (*measure.WORDS, *context.overrides)

    def train(count: int, kinds: tuple[str, ...]) -> dict[str, Curve]:
        wanted = [measure.deterministic(count, exact)]
        for dtype in DTYPES:
            wanted += measure.statistical(count, seeds, steps, dtype, first=first)
        for kind in kinds:
            wanted += measure.statistical(count, seeds, steps, DTYPES[0], kind, first)
        context.tell(f"{len(wanted)} trainings on {count} ranks")
        limit_s, nodes = LIMIT_S * context.crowd(count), context.nodes if count > 1 else None
        return measure.train_on(count, wanted, words, context.folder, limit_s, nodes)

    alone, together = train(1, ()), train(ranks, KINDS)
    return judge(alone, together, seeds)


def judge(alone: dict[str, Curve], together: dict[str, Curve], seeds: int) -> Findings:
    """What the curves of one rank and of several say. Pure."""
    from ryzen_mpi.validation import convergence as measure

    def of(curves: dict[str, Curve], kind: str, dtype: str) -> list[Curve]:
        return [curves[f"{kind} {dtype} {seed}"] for seed in range(seeds)]

    plain = {dtype: of(together, "plain", dtype) for dtype in DTYPES}
    base = {dtype: of(alone, "plain", dtype) for dtype in DTYPES}
    found = {dtype: measure.compare(plain[dtype], base[dtype]) for dtype in DTYPES}
    controls = {
        "again": measure.compare(of(together, "again", DTYPES[0]), plain[DTYPES[0]]),
        "summed": measure.compare(of(together, "summed", DTYPES[0]), base[DTYPES[0]]),
        "frozen": measure.compare(of(together, "frozen", DTYPES[0]), base[DTYPES[0]]),
    }
    figures = [
        _exact(alone["float64"], together["float64"]),
        *_equivalences(found),
        *_shapes(plain, base),
        _controls(controls),
    ]
    details = {
        name: {"loss": vars(each.loss), "norm": vars(each.norm), "speed": vars(each.speed), "same": each.same}
        for name, each in (found | controls).items()
    }
    return Findings(figures, _not_working(controls), details={"comparisons": details})


def _exact(alone: Curve, together: Curve) -> Measured:
    from ryzen_mpi.validation.convergence import largest_difference

    off, step = largest_difference(together, alone)
    told = f"losses of {together.ranks} ranks and of one in float64: largest relative difference, at step {step}"
    return Measured("deterministic_error", off, "1", len(alone.losses), why=told)


def _equivalences(found: dict[str, Comparison]) -> list[Measured]:
    """The bounds that margins are compared with."""
    from ryzen_mpi.validation.convergence import bound

    wide, narrow = (found[dtype] for dtype in DTYPES)
    figures = []
    for name, each, what in (
        ("loss_bound", wide.loss, "held-out loss, float32"),
        ("bf16_loss_bound", narrow.loss, "held-out loss, bfloat16"),
        ("gradient_norm_bound", wide.norm, "gradient norm of the first steps, float32"),
        ("speed_bound", wide.speed, "steps to half of the way down, float32"),
    ):
        told = (
            f"{what}: ratio of all ranks to one is within this of 1 (paired runs, 90 % interval of the mean log-ratio "
            f"{each.low:+.2g} to {each.high:+.2g}, as TOST takes it)"
        )
        figures.append(Measured(name, bound(each), "1", each.n, why=told))
    return figures


def _shapes(plain: dict[str, list[Curve]], base: dict[str, list[Curve]]) -> list[Measured]:
    """Divergence, oscillation and overfitting, over all trainings."""
    import numpy as np

    from ryzen_mpi.validation.convergence import gap, rise, roughness

    pairs = [pair for dtype in DTYPES for pair in zip(plain[dtype], base[dtype], strict=True)]
    n = len(pairs)
    if not all(np.isfinite(curve.losses).all() and np.isfinite(curve.held_out) for pair in pairs for curve in pair):
        diverged = Measured("rise", float("inf"), "1", n, why="a loss was not finite")
        return [diverged, *(not_measurable(name, "1", diverged.why) for name in ("oscillation", "gap_difference"))]
    rises = [rise(a) for a, _ in pairs]
    rough = float(np.median([roughness(a) / roughness(b) for a, b in pairs]))
    gaps = [gap(a) - gap(b) for a, b in pairs]
    return [
        Measured("rise", max(rises), "1", n, why="how far the smoothed loss ends above its lowest, worst training"),
        Measured("oscillation", rough, "1", n, why="deviation of the loss from its course, over that of one process"),
        Measured(
            "gap_difference",
            float(np.median(gaps)),
            "1",
            n,
            samples=tuple(gaps),
            why="held-out over training loss, all ranks less one process: overfitting that comes with the ranks",
        ),
    ]


def _controls(controls: dict[str, Comparison]) -> Measured:
    good = controls["again"].same + (not controls["summed"].same) + (not controls["frozen"].same)
    told = "same against same passed, gradients summed and a frozen rank failed"
    return Measured("controls_right", good, "1", len(controls), why=told if good == 3 else "see problems")


def _not_working(controls: dict[str, Comparison]) -> list[str]:
    """Controls that did not behave: then the check says nothing."""
    problems = []
    if not controls["again"].same:
        problems.append(
            "the check is not working: the same ranks with other micro-batches are not found equivalent "
            f"({_told(controls['again'])}); more seeds or steps are needed"
        )
    for name, what in (("summed", "gradients summed instead of averaged"), ("frozen", "a frozen rank")):
        if controls[name].same:
            problems.append(f"the check is not working: {what} was taken for healthy ({_told(controls[name])})")
    return problems


def _told(found: Comparison) -> str:
    loss, norm = found.loss, found.norm
    return f"loss {loss.low:+.3g} to {loss.high:+.3g}, gradient norm {norm.low:+.3g} to {norm.high:+.3g}"
