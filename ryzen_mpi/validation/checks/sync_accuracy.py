"""E4: how often ranks agree, counted over independent steps, with what the count proves."""

from __future__ import annotations

from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured

STEPS, CLAIM, CONFIDENCE = 1000, 0.9999, 0.95


@check(
    "sync_accuracy",
    ids="E4",
    about="share of independent steps after which all ranks are equal, with the lower bound it proves",
    where="ranks",
    limit_s=3600,
    least_ranks=2,
)
def sync_accuracy(context: Context) -> Findings:
    """Counts clean steps, and adds them to those counted before with the same settings. Collective.

    Options: steps (of this run; 29956 clean ones in all prove 99.99 %), backend.
    """
    from ryzen_mpi.validation.counting import count_steps
    from ryzen_mpi.validation.statistics import share_bound, trials_for

    counted, differences = count_steps(context, context.count("steps", STEPS))
    bound = share_bound(counted.clean, counted.steps, CONFIDENCE)
    needed = trials_for(CLAIM, CONFIDENCE)
    proves = (
        f"{counted.clean} of {counted.steps} steps clean: at least {100 * bound:.4f} % at {CONFIDENCE:.0%} confidence"
    )
    if counted.clean == counted.steps < needed:
        proves += f"; a claim of {100 * CLAIM:g} % rests on {needed} clean steps, {needed - counted.steps} more"
    share = counted.clean / max(1, counted.steps)
    context.tell(proves)
    return Findings(
        (
            Measured("accuracy", share, "1", counted.steps, low=bound, high=1.0, why=proves),
            Measured("accuracy_bound", bound, "1", counted.steps, why=proves),
            Measured("clean_steps", counted.clean, "1", counted.steps, why=f"in {counted.runs} runs of this check"),
        ),
        problems=[*counted.told, *differences],
    )
