"""E6: a supervised run for as long as is asked, and what that long proves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

if TYPE_CHECKING:
    from ryzen_mpi.validation.soaked import Soak, Time

DURATION_S = 60.0
KEPT_ROWS = 400


@check(
    "soak",
    ids="E6",
    about="training under supervision for so long: rate, drift, memory, spikes, checkpoints, restarts, balance",
    where="driver",
    limit_s=420,
)
def soak(context: Context) -> Findings:
    """Goes on with the soak of its folder until `duration_s` is reached in sum.

    Options: duration_s, profile ("scaling_benchmark"), save_interval (steps).
    """
    from ryzen_mpi.validation.soaking import carry_out

    return findings(carry_out(context, float(context.options.get("duration_s", DURATION_S))), context.phase.soak_s)


def findings(soak: Soak, asked_s: float) -> Findings:
    """What a soak showed. Pure."""
    from ryzen_mpi.validation import soaked

    time = soaked.time_of(soak)
    warm = soaked.warm_rows(soak, time)
    due, wrong = soaked.checkpoints_of(soak)
    by_rank = soaked.work_by_rank(soak, warm)
    figures = [
        *_duration(time, asked_s),
        *_rates(soak, time),
        *_machine(soak, time, by_rank),
        *_learning(soak),
        _checkpoints(due, wrong),
    ]
    problems = [soak.ended] if soak.ended else []
    problems += [*wrong, *(f"step {step}: a loss or gradient was not finite" for step in soaked.not_finite(soak)[:10])]
    evidence = [
        f"attempt {record.epoch} on {record.ranks} ranks: {record.end} {record.cause} {record.evidence}".rstrip()
        for record in soak.attempts
        if record.end == "fault"
    ]
    details = {"work_s_by_rank": by_rank, "attempts": [vars(record) for record in soak.attempts], **_curves(soak, time)}
    return Findings(figures, problems, soaked.cannot_be(soak), evidence, details)


def _duration(time: Time, asked_s: float) -> list[Measured]:
    """How long, and what that proves."""
    from ryzen_mpi.validation.statistics import rate_bound

    hours = time.trained_s / 3600
    bound, full = rate_bound(time.faults, hours), rate_bound(0, asked_s / 3600)
    proves = (
        f"{time.faults} failures in {time.trained_s:.0f} s prove, at 95 % confidence, fewer than {bound:.3g} an hour; "
        f"the phase's {asked_s / 3600:g} h without one would prove {full:.3g}"
    )
    lost = f"{time.faults} faults cost {time.down_s:.1f} s, with the steps that were trained again"
    return [
        Measured("soak_s", time.trained_s, "s", 1, why=proves),
        Measured("failure_rate_bound", bound, "1/h", 1, why=proves),
        Measured("restarts", time.faults, "1", len(time.starts), why="attempts that ended in a fault"),
        Measured("uptime", time.uptime, "1", 1, why=f"share of the time that trained; {lost}"),
    ]


def _rates(soak: Soak, time: Time) -> list[Measured]:
    from ryzen_mpi.validation import soaked

    names = (("throughput", "samples/s"), ("throughput_deviation", "1"), ("throughput_drift", "1"))
    windows = soaked.windows_of(soak, time)
    n = len(windows.rates)
    if n < soaked.LEAST_WINDOWS:
        return [not_measurable(*name, f"too short: {len(soak.steps)} steps make {n} windows") for name in names]
    rate, slope = windows.throughput(), windows.drift()
    told = f"median of {n} stretches, saving included, first {soaked.WARMUP_STEPS} steps of an attempt left out"
    return [
        Measured(*names[0][:1], rate.value, "samples/s", n, rate.low, rate.high, tuple(windows.rates.tolist()), told),
        Measured(
            "throughput_deviation", windows.deviation(), "1", n, why="1.4826 MAD of the stretches over the median"
        ),
        Measured(
            "throughput_drift",
            slope.value,
            "1",
            slope.n,
            slope.low,
            slope.high,
            why="change over the whole soak, as a share of the median (Theil-Sen)",
        ),
    ]


def _machine(soak: Soak, time: Time, by_rank: list[float]) -> list[Measured]:
    """Processors, memory, balance."""
    from ryzen_mpi.validation import soaked

    warm = soaked.warm_rows(soak, time)
    n = int(warm.sum())
    growth, (off, rank) = soaked.memory_growth(soak, time), soaked.imbalance(by_rank)
    shares = [max(look.values()) for look in soak.memory if look]
    cpu = f"of {soak.cores} cores, median of the steps; ranks that wait spin or doze as their backend does"
    grows = "of the ranks' resident memory over the second half of the longest attempt, as a share of it (Theil-Sen)"
    worst = f"rank {rank} works {by_rank[rank]:.4g} s a step" if by_rank else "no step"
    told = f"largest deviation of a rank's work from the mean: {worst}"
    figures = [
        Measured("cpu_use", soaked.cpu_use(soak, warm), "1", n, why=cpu)
        if n
        else not_measurable("cpu_use", "1", "too short"),
        Measured("imbalance", off, "1", n, why=told) if n else not_measurable("imbalance", "1", "too short"),
    ]
    if growth.value == growth.value:
        figures.append(Measured("memory_growth", growth.value, "1", growth.n, growth.low, growth.high, why=grows))
    else:
        figures.append(not_measurable("memory_growth", "1", "too short"))
    if shares:
        told = f"largest share of a NUMA node's memory in use ({', '.join(soak.memory[-1])}), by everybody on this node"
        figures.append(Measured("memory_share", max(shares), "1", len(shares), why=told))
    else:
        figures.append(not_measurable("memory_share", "1", "nobody looked while it ran"))
    return figures


def _learning(soak: Soak) -> list[Measured]:
    from ryzen_mpi.validation import soaked

    n = len(soak.steps)
    wrong = soaked.not_finite(soak)
    loss, norm = soaked.spiking(soak)
    growth = soaked.norm_growth(soak)
    stable = "median of the last quarter over the second one, less 1"

    def at(steps: list[int]) -> str:
        return f"steps {steps[:10]}" if steps else f"none in {n} steps"

    return [
        Measured("not_finite", len(wrong), "1", n, why=f"NaN, infinite or skipped: {at(wrong)}"),
        Measured("loss_spikes", len(loss), "1", n, why=f"robust z above 10 among 51 neighbours: {at(loss)}"),
        Measured("gradient_norm_spikes", len(norm), "1", n, why=f"robust z above 10 among 51 neighbours: {at(norm)}"),
        Measured("gradient_norm_growth", growth, "1", n, why=stable)
        if growth == growth
        else not_measurable("gradient_norm_growth", "1", f"too short: {n} steps"),
    ]


def _checkpoints(due: int, wrong: list[str]) -> Measured:
    if not due:
        return not_measurable("checkpoints", "1", "too short: none was due")
    good = max(0, due - len(wrong))
    return Measured(
        "checkpoints", good / due, "1", due, why=f"{good} of {due} due were seen, and verified byte by byte"
    )


def _curves(soak: Soak, time: Time) -> dict:
    """For reports, thinned."""
    from ryzen_mpi.validation.soaked import windows_of

    every = max(1, len(soak.steps) // KEPT_ROWS)
    windows = windows_of(soak, time)
    return {
        "windows": {"at_s": windows.at_s, "samples_per_s": windows.rates},
        "loss": {"step": soak.steps[::every], "loss": soak.loss[::every], "wall_s": soak.wall_s[::every]},
        "restarts_at_step": [int(soak.steps[row]) for row in time.starts[1:]],
    }
