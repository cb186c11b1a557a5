"""E11: what breaks is mended, and the training is none the worse for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

if TYPE_CHECKING:
    from ryzen_mpi.validation.recovering import Recovered

KILLS, ROUND_TRIPS = 2, 10


@check(
    "reliability",
    ids="E11",
    about="ranks killed, another number of ranks, checkpoints to and fro: recovered, and the losses as undisturbed",
    where="driver",
    limit_s=900,
    least_ranks=2,
)
def reliability(context: Context) -> Findings:
    """A supervised run that is hit, and an undisturbed one. Options: kills, round_trips."""
    from ryzen_mpi.validation.recovering import carry_out, cores

    kills = context.count("kills", KILLS, 0)
    found = carry_out(context, kills, context.count("round_trips", ROUND_TRIPS, 0))
    count = context.nodes.count if context.nodes else 1
    return findings(found, cores() * count)


def findings(found: Recovered, cores: int) -> Findings:
    """What the run showed. Pure."""
    why = (
        "no check cuts a network that others use; the lab does it on hosts of its own (tests/lab/test_networks.py), "
        "with the times of recovery in its table"
    )
    figures = [
        *_kills(found),
        *_same(found),
        *_resized(found, cores),
        Measured(
            "checkpoint_round_trips",
            found.round_trips / found.tried if found.tried else float("nan"),
            "1",
            found.tried,
            why=f"{found.round_trips} of {found.tried} saved and loaded bit for bit, a step trained in between",
        ),
        not_measurable("partition_recovery_s", "s", why),
    ]
    problems = []
    if found.round_trips < found.tried:
        problems.append(f"{found.tried - found.round_trips} checkpoints came back different from what was saved")
    if found.equal < found.compared:
        problems.append(f"{found.compared - found.equal} checkpoints differ from those of the undisturbed run")
    return Findings(figures, problems, details={"kills": [vars(kill) for kill in found.kills]})


def _kills(found: Recovered) -> list[Measured]:
    times = [kill.recovered_s for kill in found.kills]
    names = ("kill_recovery_s", "kill_detected_s", "ranks_after_kill")
    if not times:
        return [not_measurable(name, "s", "no rank was killed (kills=0)") for name in names]
    told = (
        f"from SIGKILL of a rank until all {found.ranks} trained again, slowest; ranks {[k.rank for k in found.kills]}"
    )
    seen = max(kill.seen_s for kill in found.kills)
    n, back = len(times), "ranks that trained after the last one: the killed one was replaced"
    return [
        Measured(names[0], max(times), "s", n, samples=tuple(times), why=told),
        Measured(names[1], seen, "s", n, why="until the supervisor knew, slowest"),
        Measured(names[2], found.ranks, "1", n, why=back),
    ]


def _same(found: Recovered) -> list[Measured]:
    until = found.same_ranks_until
    told = f"largest relative difference of a loss to the undisturbed run, steps 1 to {until}, same ranks: 0 is bitwise"
    off = difference(found, 0, until)
    figures = [Measured("recovered_loss_difference", off, "1", until, why=told)]
    if not found.compared:
        return [*figures, not_measurable("recovered_checkpoints_equal", "1", "no checkpoint before the resize")]
    told = f"{found.equal} of {found.compared} checkpoints have the bytes of the undisturbed run's"
    share = found.equal / found.compared
    return [*figures, Measured("recovered_checkpoints_equal", share, "1", found.compared, why=told)]


def _resized(found: Recovered, cores: int) -> list[Measured]:
    crowded = f", oversubscribed: {found.resized} ranks on {cores} cores" if found.resized > cores else ""
    told = f"from the request until {found.resized} ranks trained{crowded}"
    after = found.steps - found.same_ranks_until
    off = difference(found, found.same_ranks_until, found.steps)
    return [
        Measured("resize_s", found.resize_s, "s", 1, why=told),
        Measured("resized_loss_difference", off, "1", after, why="float64, to the undisturbed run, after the resize"),
    ]


def difference(found: Recovered, begin: int, end: int) -> float:
    """The largest relative difference of the losses of steps begin + 1 to end; infinite where one is missing. Pure."""
    import numpy as np

    ours, theirs = found.losses[begin:end], found.undisturbed[begin:end]
    if len(ours) != end - begin or len(theirs) != end - begin or not end > begin:
        return float("inf")
    off = np.abs(ours - theirs) / np.abs(theirs)
    return float(off.max()) if np.isfinite(off).all() else float("inf")
