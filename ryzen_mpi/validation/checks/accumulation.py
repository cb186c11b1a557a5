"""E12: an effective batch of 4096 out of micro-batches of 64, on all ranks."""

from __future__ import annotations

from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured

STEPS = 2


@check(
    "accumulation",
    ids="E12",
    about="64 a micro-batch x accumulation x ranks = 4096: every sample once, the gradient that of one process",
    where="ranks",
    limit_s=180,
)
def accumulation(context: Context) -> Findings:
    """Collective. Options: steps."""
    from ryzen_mpi.validation.accumulation import EFFECTIVE, MICRO, measure

    steps = context.count("steps", STEPS)
    seen, counts = measure(context, steps)
    ranks = len(counts.by_rank)
    each = EFFECTIVE / (MICRO * ranks)
    how = f"{MICRO} x {each:g} x {ranks} ranks" + ("" if each == int(each) else " (ranks' shares differ by one sample)")
    error, share = max(seen.errors, default=float("nan")), max(seen.sum_shares, default=float("nan"))
    figures = (
        Measured("effective_batch", counts.trained / max(1, seen.steps), "samples", seen.steps, why=f"counted; {how}"),
        Measured("samples_missing", counts.missing, "samples", counts.trained, why="of those that were due"),
        Measured("samples_twice", counts.twice, "samples", counts.trained, why="trained more than once, or not due"),
        Measured(
            "gradient_error", error, "1", len(seen.errors), why=f"to one process in float64; bound {seen.bound:.3g}"
        ),
        Measured("gradient_error_share", error / seen.bound, "1", len(seen.errors), why="as a share of that bound"),
        Measured("reduction_error", share, "1", len(seen.sum_shares), why="of the sum, as a share of its bound"),
        Measured("rank_difference", seen.ulp, "ulp", seen.steps, why="of gradients and weights between ranks"),
    )
    problems = [*seen.problems, *counts.problems]
    return Findings(figures, problems, details={"samples_by_rank": counts.by_rank, "micro_batches": seen.micro_batches})
