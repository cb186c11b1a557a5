"""From timed calls to the figures of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ryzen_mpi.bench.catalog import WINDOW
from ryzen_mpi.bench.measure import Samples

NAN = float("nan")


def _figure(unit: str, description: str, default: Any = NAN) -> Any:
    return field(default=default, metadata={"unit": unit, "description": description})


@dataclass(frozen=True)
class Row:
    """The figures of one backend at one size; NaN or None is what was not measured.

    `unavailable` says why there are none. Units and descriptions are in the fields' metadata.
    """

    backend: str
    bytes: int = _figure("B", "message size, counted as OSU counts it", 0)
    iterations: int = _figure("1", "timed calls", 0)
    average_us: float = _figure("us", "mean over ranks of the mean over calls (OSU's average)")
    minimum_us: float = _figure("us", "smallest of the ranks' means (OSU's min)")
    maximum_us: float = _figure("us", "largest of the ranks' means (OSU's max)")
    bandwidth_mb_s: float = _figure("MB/s", "10^6 bytes a second over all calls (OSU's bandwidth)")
    p50_us: float = _figure("us", "median over calls of the slowest rank's time")
    p99_us: float = _figure("us", "99th percentile over calls of the slowest rank's time")
    bus_gb_s: float = _figure("GB/s", "bus bandwidth at the median, 10^9 bytes a second, NCCL-tests' convention")
    times_memcpy: float = _figure("1", "median over the median of a memcpy of the same bytes by all ranks at once")
    waited_share: float = _figure("1", "share of the time in which a rank waited for a core that others had")
    others_share: float = _figure("1", "share of the cores' time that other programs took")
    disturbed: bool | None = None
    valid: bool | None = None
    percentiles: dict[str, float] = field(default_factory=dict)
    unavailable: str | None = None


FIGURES = {item.name: dict(item.metadata) for item in fields(Row) if item.metadata}


def bus_factor(operation: str, ranks: int) -> float:
    """Bus bandwidth over S/t, which makes figures of different operations and rank counts comparable. Local.

    S is the whole vector (all-gather and all-to-all: of all ranks). Source: NVIDIA/nccl-tests, doc/PERFORMANCE.md:
    2(n-1)/n for all-reduce, (n-1)/n for all-gather, reduce-scatter and all-to-all, 1 for broadcast.
    """
    if operation.endswith("all_reduce"):
        return 2 * (ranks - 1) / ranks
    if operation in ("all_gather", "reduce_scatter", "all_to_all"):
        return (ranks - 1) / ranks
    return 1.0


def tail(values: Sequence[float], percent: int) -> float:
    """The percentile as OSU takes it: the element floor(n p / 100) - 1 of the sorted values. Local.

    Source: omb_calculate_tail_lat in osu_util_mpi.c, OSU Micro-Benchmarks 7.
    """
    return float(np.sort(np.asarray(values))[max(0, len(values) * percent // 100 - 1)])


def percentile(values: np.ndarray, percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed. Local."""
    return float(np.percentile(values, percent, method="inverted_cdf"))


def collective_row(
    backend: str,
    size: int,
    samples: Samples,
    memcpy: Samples | None,
    total_bytes: int,
    factor: float,
    percentiles: Sequence[int] = (),
) -> Row:
    """The row of a collective. `total_bytes` and `factor`: see `bus_factor`. Local."""
    means = samples.times_ns.mean(axis=1) / 1e3
    slowest = samples.slowest_ns() / 1e3
    middle = float(np.median(slowest))
    across = samples.times_ns.mean(axis=0) / 1e3
    return Row(
        *(backend, size, samples.times_ns.shape[1]),
        *(float(means.mean()), float(means.min()), float(means.max())),
        p50_us=middle,
        p99_us=percentile(slowest, 99),
        bus_gb_s=total_bytes * factor / middle / 1e3 if total_bytes else NAN,
        times_memcpy=_over(middle, memcpy),
        waited_share=samples.waited_whole,
        others_share=samples.others,
        disturbed=samples.disturbed,
        percentiles={str(percent): tail(across, percent) for percent in percentiles},
    )


def message_row(
    backend: str,
    size: int,
    samples: Samples,
    memcpy: Samples | None,
    operation: str,
    percentiles: Sequence[int] = (),
) -> Row:
    """The row of a ping-pong or a window, from rank 0's clock, as in OSU. Local."""
    times = samples.times_ns[0] / 1e3
    common = {
        "waited_share": samples.waited_whole,
        "others_share": samples.others,
        "disturbed": samples.disturbed,
    }
    if operation == "latency":  # half a round trip
        half = times / 2
        mean, middle = float(half.mean()), float(np.median(half))
        return Row(
            *(backend, size, len(times), mean, mean, mean),
            p50_us=middle,
            p99_us=percentile(half, 99),
            bus_gb_s=size / middle / 1e3 if size else NAN,
            times_memcpy=_over(middle, memcpy),
            percentiles={str(percent): tail(half, percent) for percent in percentiles},
            **common,
        )
    messages = WINDOW * (2 if operation == "bibw" else 1)
    rates, middle = size * messages / times, float(np.median(times))
    return Row(
        *(backend, size, len(times)),
        bandwidth_mb_s=float(size * messages * len(times) / times.sum()),
        p50_us=middle,
        p99_us=percentile(times, 99),
        bus_gb_s=size * messages / middle / 1e3,
        times_memcpy=_over(middle / messages, memcpy),
        percentiles={str(percent): tail(rates, percent) for percent in percentiles},
        **common,
    )


def _over(middle_us: float, memcpy: Samples | None) -> float:
    return NAN if memcpy is None else middle_us / float(np.median(memcpy.slowest_ns()) / 1e3)
