"""E4: no bit is changed on the way."""

from __future__ import annotations

from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured

REPEATS = 3


@check(
    "silent_corruption",
    ids="E4",
    about="all-reduces of many sizes and types against their exact results, bit for bit",
    where="ranks",
    limit_s=180,
    least_ranks=2,
)
def silent_corruption(context: Context) -> Findings:
    """Collective. Options: repeats (of every size and type), backend."""
    from ryzen_mpi.validation.corruption import SIZES, verify
    from ryzen_mpi.validation.statistics import rate_bound
    from ryzen_mpi.validation.training import connected

    words = [f"distributed.backend={context.options['backend']}"] if "backend" in context.options else []
    with connected(context, words) as (world, _):
        tally = verify(world, context.count("repeats", REPEATS))
        tallies = world.exchange.allgather([tally.wrong, tally.bytes, tally.told])
    wrong, checked = sum(each[0] for each in tallies), sum(each[1] for each in tallies)
    told = f"{tally.reductions} all-reduces of {min(SIZES)} to {max(SIZES)} elements, every element on every rank"
    rate = "bits wrong of those verified are fewer than this, at 95 % confidence, if they come alone and at random"
    return Findings(
        (
            Measured("wrong_elements", wrong, "1", tally.reductions, why=told),
            Measured("verified_bytes", checked, "B", tally.reductions, why="results compared, all ranks together"),
            Measured("bit_error_bound", rate_bound(wrong, 8 * checked), "1", tally.reductions, why=rate),
        ),
        problems=[text for each in tallies for text in each[2]],
    )
