"""E12: the losses of 8 and 16 processes are those of one."""

from __future__ import annotations

from ryzen_mpi.errors import UserError
from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured

RANKS, STEPS = "8,16", 10
LIMIT_S = 250.0


@check(
    "convergence_wide",
    ids="E12",
    about="float64 losses of 8 and 16 processes against one, oversubscribed where there are fewer cores",
    where="driver",
    limit_s=600,
)
def convergence_wide(context: Context) -> Findings:
    """A launch of each size and one of one rank. Options: ranks ("8,16"), steps."""
    from ryzen_mpi.validation import convergence as measure

    asked = str(context.options.get("ranks", RANKS))
    if not all(word.isdigit() and int(word) > 1 for word in asked.split(",")):
        raise UserError(f"--option ranks={asked}: not numbers of ranks above 1", f"as in ranks={RANKS}")
    wide = [int(word) for word in asked.split(",")]
    steps = context.count("steps", STEPS)
    words = (*measure.WORDS, *context.overrides)
    curves = {}
    for ranks in (1, *wide):
        context.tell(f"{steps} steps on {ranks} ranks")
        wanted = [measure.deterministic(ranks, steps)]
        nodes = context.nodes.crowded(ranks) if context.nodes and ranks > 1 else None
        curves[ranks] = measure.train_on(ranks, wanted, words, context.folder, LIMIT_S, nodes)["float64"]
    figures = []
    for ranks in wide:
        off, step = measure.largest_difference(curves[ranks], curves[1])
        crowd = context.crowd(ranks)
        crowded = f"; oversubscribed: {crowd:g} ranks a core" if crowd > 1 else ""
        told = f"largest relative difference of a loss, at step {step}{crowded}"
        figures.append(Measured(f"deterministic_error_{ranks}", off, "1", steps, why=told))
    return Findings(figures, details={"losses": {str(ranks): curve.losses for ranks, curve in curves.items()}})
