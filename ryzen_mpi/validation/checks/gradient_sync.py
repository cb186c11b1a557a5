"""E4: gradients and weights the same on all ranks, and those of one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

if TYPE_CHECKING:
    from ryzen_mpi.validation.synchronisation import Seen

STEPS, DTYPES = 6, "float32,bfloat16"


@check(
    "gradient_sync",
    ids="E4",
    about="gradients and weights equal on all ranks bit for bit, and those of one process within rounding",
    where="ranks",
    limit_s=180,
    least_ranks=2,
)
def gradient_sync(context: Context) -> Findings:
    """Trains real steps and inspects each. Collective. Options: steps, dtypes ("float32,bfloat16"), backend."""
    from ryzen_mpi.validation.synchronisation import Inspection
    from ryzen_mpi.validation.training import connected

    steps = context.count("steps", STEPS)
    words = ["training.gradient_accumulation_steps=2"]
    if "backend" in context.options:
        words.append(f"distributed.backend={context.options['backend']}")
    seen: dict[str, Seen] = {}
    with connected(context, words) as (world, settings):
        for dtype in str(context.options.get("dtypes", DTYPES)).split(","):
            hardware = settings.hardware.model_copy(update={"dtype": dtype})
            inspection = Inspection(world, settings.model_copy(update={"hardware": hardware}))
            seen[dtype] = inspection.run(steps)
            context.tell(f"{dtype}: {seen[dtype].equal} of {seen[dtype].steps} steps equal on {world.size} ranks")
        whole = inspection.step.strategy.cut is None
    return _findings(seen, whole)


def _findings(seen: dict[str, Seen], whole: bool) -> Findings:
    problems = [f"{dtype}: {text}" for dtype, each in seen.items() for text in each.problems]
    for dtype, each in seen.items():
        wrong = max(each.sum_shares, default=0.0)
        if not wrong <= 1:
            problems.append(
                f"{dtype}: the reduced gradient is not the sum of what the ranks handed over: {wrong:.3g} times the "
                "bound of rounding"
            )
    details = {dtype: vars(each) for dtype, each in seen.items()}
    return Findings((*_ranks(seen, whole), *_wide(seen), *_narrow(seen)), problems, details={"by_dtype": details})


def _ranks(seen: dict[str, Seen], whole: bool) -> list[Measured]:
    """What holds between ranks, over all precisions."""
    steps, equal = sum(each.steps for each in seen.values()), sum(each.equal for each in seen.values())
    shares = [share for each in seen.values() for share in each.sum_shares]
    norms = [norm for each in seen.values() for norm in each.norm_differences]
    what = "gradients and weights" if whole else "weights (ZeRO: a gradient is there once, in shards)"
    told = f"largest distance of {what} between ranks after {steps} steps, every element compared"
    figures = [
        Measured("rank_difference", max(each.ulp for each in seen.values()), "ulp", steps, why=told),
        Measured(
            "steps_equal", equal / max(1, steps), "1", steps, why="share of steps equal on all ranks, bit for bit"
        ),
        Measured(
            "reduction_error",
            max(shares, default=float("nan")),
            "1",
            len(shares),
            samples=tuple(shares),
            why="largest error of an element of the sum over ranks, as a share of gamma(n-1) times its magnitudes",
        ),
    ]
    if norms:
        told = "largest difference of the gradient's norm between ranks, relative"
        figures.append(
            Measured("gradient_norm_difference", max(norms), "1", len(norms), samples=tuple(norms), why=told)
        )
    else:
        figures.append(
            not_measurable("gradient_norm_difference", "1", "ZeRO: no rank has a whole gradient, or no step")
        )
    return figures


def _wide(seen: dict[str, Seen]) -> list[Measured]:
    """The float32 gradient against the reference."""
    each = seen.get("float32")
    names = ("reference_error", "reference_error_share", "allclose_share")
    if each is None or not each.errors:
        return [not_measurable(name, "1", "no step was trained in float32") for name in names]
    n, error = len(each.errors), max(each.errors)
    told = f"L2 norm of the difference to one process in float64, relative; bound {each.bound:.3g}"
    return [
        Measured(names[0], error, "1", n, samples=tuple(each.errors), why=told),
        Measured(names[1], error / each.bound, "1", n, why="as a share of the bound of rounding"),
        Measured(
            names[2], min(each.close), "1", n, why="elements within rtol 1e-5, atol 1e-7 of one process in float64"
        ),
    ]


def _narrow(seen: dict[str, Seen]) -> list[Measured]:
    """The bfloat16 gradient against the reference."""
    each = seen.get("bfloat16")
    names = ("bf16_agreement", "bf16_error", "bf16_error_share")
    if each is None or not each.errors:
        return [not_measurable(name, "1", "no step was trained in bfloat16") for name in names]
    n, error = len(each.errors), max(each.errors)
    told = f"L2 norm of the difference to one process in float64 with the same weights; bound {each.bound:.3g}"
    return [
        Measured(names[0], min(each.cosines), "1", n, why="cosine of the angle to the float64 gradient, smallest"),
        Measured(names[1], error, "1", n, samples=tuple(each.errors), why=told),
        Measured(names[2], error / each.bound, "1", n, why="as a share of the bound of rounding"),
    ]
