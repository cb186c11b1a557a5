"""Tables in OSU's form: OSU's columns in OSU's widths first, so that people's parsers work, then ours.

Source of names, order and widths: print_only_header, print_stats and print_stats_validate in osu_util_mpi.c of the OSU
Micro-Benchmarks 7, built with its own FIELD_WIDTH of 18 and FLOAT_PRECISION of 2.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ryzen_mpi import __version__
from ryzen_mpi.bench.catalog import WINDOW, Benchmark
from ryzen_mpi.bench.disturbance import DISTURBED_SHARE, OTHERS_SHARE
from ryzen_mpi.bench.options import Options
from ryzen_mpi.bench.pairs import Matrix, Pairs
from ryzen_mpi.bench.rows import Row

SIZE_WIDTH, FIELD_WIDTH, ITERATIONS_WIDTH, BARRIER_WIDTH = 10, 18, 12, 17
OUR_WIDTH = 15


class OsuTable:
    """Lines of one backend's block."""

    def __init__(self, benchmark: Benchmark, options: Options) -> None:
        self.benchmark, self.options = benchmark, options
        self.bandwidth = benchmark.family == "bandwidth"
        self.with_size = benchmark.operation != "barrier"

    def head(self, backend: str) -> Iterator[str]:
        """The lines above the rows."""
        yield ""
        yield f"# backend: {backend}"
        yield f"# {self.benchmark.title}"
        if self.with_size:
            yield f"# Datatype: {datatype_name(self.options)}."
        yield self._columns()

    def _columns(self) -> str:
        name = "Bandwidth (MB/s)" if self.bandwidth else "Avg Latency(us)"
        line = f"{'# Size':<{SIZE_WIDTH}}{name:>{FIELD_WIDTH}}" if self.with_size else f"# {name}"
        if self.options.full and not self.bandwidth:
            line += f"{'Min Latency(us)':>{FIELD_WIDTH}}{'Max Latency(us)':>{FIELD_WIDTH}}"
            line += f"{'Iterations':>{ITERATIONS_WIDTH}}"
        if self.options.validate:
            line += f"{'Validation':>{FIELD_WIDTH}}"
        kind = "BW(MB/s)" if self.bandwidth else "Lat(us)"
        for percent in self.options.percentiles:
            line += f"{f'P{percent} Tail {kind}':>{FIELD_WIDTH}}"
        return line + "".join(f"{name:>{OUR_WIDTH}}" for name in self._ours())

    def _ours(self) -> list[str]:
        if not self.with_size:
            return ["p50(us)", "p99(us)", "Disturbed"]
        return ["p50(us)", "p99(us)", "Bus(GB/s)", "x_memcpy", "Disturbed"]

    def line(self, row: Row) -> str:
        """A row; one without figures is a comment with the reason, which parsers pass over."""
        if row.unavailable:
            return f"# {row.bytes}: not available: {' '.join(row.unavailable.split())}"
        figure = row.bandwidth_mb_s if self.bandwidth else row.average_us
        line = f"{row.bytes:<{SIZE_WIDTH}}{figure:>{FIELD_WIDTH}.2f}"
        if not self.with_size:
            line = f"{figure:>{BARRIER_WIDTH}.2f}"
        if self.options.full and not self.bandwidth:
            line += f"{row.minimum_us:>{FIELD_WIDTH}.2f}{row.maximum_us:>{FIELD_WIDTH}.2f}"
            line += f"{row.iterations:>{ITERATIONS_WIDTH}d}"
        if self.options.validate:
            line += f"{'Pass' if row.valid else 'Fail':>{FIELD_WIDTH}}"
        for percent in self.options.percentiles:
            line += f"{row.percentiles[str(percent)]:>{FIELD_WIDTH}.2f}"
        return line + "".join(f"{text:>{OUR_WIDTH}}" for text in self._our_values(row))

    def _our_values(self, row: Row) -> list[str]:
        times = [f"{row.p50_us:.2f}", f"{row.p99_us:.2f}"]
        if self.with_size:
            times += [f"{row.bus_gb_s:.3f}", f"{row.times_memcpy:.2f}"]
        return [*times, disturbed_mark(row.disturbed, row.waited_share, row.others_share)]

    def foot(self, cache: tuple[int, str], ranks: int, nodes: int) -> Iterator[str]:
        """What the columns beyond OSU's mean, once, below all blocks."""
        what = f"a window of {WINDOW} messages" if self.bandwidth else "the slowest rank"
        if self.benchmark.family == "latency":
            what = "half a round trip"
        yield ""
        yield f"# ryzen_mpi {__version__}: {ranks} ranks on {nodes} node(s). p50, p99: over iterations, {what}."
        if self.with_size:
            yield (
                f"# x_memcpy: times a memcpy of the same bytes by all ranks at once. Memory rotates beyond the last "
                f"cache ({cache[0] >> 20} MiB, {cache[1]}), in at most 64 buffers."
            )
        yield (
            f"# Disturbed, not to be trusted: wait: a rank waited for a core (over {DISTURBED_SHARE:.0%} of the time); "
            f"others: other programs took the cores (over {OTHERS_SHARE:.0%})."
        )


def datatype_name(options: Options) -> str:
    """As OSU names it; PyTorch's name where MPI has none. Local."""
    return f"MPI_{options.datatype.name.upper()}" if options.datatype.mpi else options.datatype.torch


def disturbed_mark(disturbed: bool | None, waited: float, others: float) -> str:
    """`no`; `wait:7.2%` or `others:35%` with the share that is too large; `unknown` where nothing counts it. Local."""
    if disturbed is None:
        return "unknown"
    if not disturbed:
        return "no"
    return f"wait:{waited:.1%}" if waited > DISTURBED_SHARE else f"others:{others:.0%}"


def absent_block(backend: str, benchmark: Benchmark, reason: str) -> Iterator[str]:
    """The block of a backend that measured nothing. Local."""
    yield ""
    yield f"# backend: {backend}"
    yield f"# {benchmark.title}"
    yield f"# not available: {' '.join(reason.split())}"


def pairs_lines(pairs: Pairs) -> Iterator[str]:
    """All blocks of `all_pairs` in mpiGraph's form. Local.

    Source: mpiGraph.c (https://github.com/LLNL/mpiGraph); its MB are 2^20 bytes. The table of latencies is ours.
    """
    options, benchmark = pairs.options, pairs.benchmark
    times = benchmark.iterations(options.largest, options.iterations, options.warmup)[0]
    for backend, matrix in pairs.matrices.items():
        yield from ("", f"# backend: {backend}", f"START mpiGraph (ryzen_mpi {__version__})")
        yield from (f"MsgSize\t{options.largest}", f"Times\t{times}", f"Window\t{WINDOW}", f"Procs\t{len(pairs.hosts)}")
        yield from _mpigraph_table("Send", "to", matrix.send_mib_s, pairs.hosts)
        yield from _mpigraph_table("Recv", "from", matrix.receive_mib_s, pairs.hosts)
        for name, values in (("Send", matrix.send_mib_s), ("Recv", matrix.receive_mib_s)):
            yield ""
            yield f"{name} MB/sec min:\t{np.nanmin(values):f}"
            yield f"{name} MB/sec max:\t{np.nanmax(values):f}"
            yield f"{name} MB/sec avg:\t{np.nanmean(values):f}"
        yield from ("", f"# latency in us of {options.smallest} byte(s), half a round trip, median")
        yield from _table("Latency", "to", matrix.latency_us, pairs.hosts)
        yield from _remarks(matrix)
        yield from ("", "END mpiGraph")
    for backend, reason in pairs.absent.items():
        yield from absent_block(backend, benchmark, reason)


def _mpigraph_table(name: str, direction: str, values: np.ndarray, hosts: list[str]) -> Iterator[str]:
    yield from ("", f"{name} max\t{np.nanmax(values):f}", f"{name} avg\t{np.nanmean(values):f}", "")
    yield from _table(name, direction, values, hosts)


def _table(name: str, direction: str, values: np.ndarray, hosts: list[str]) -> Iterator[str]:
    ranks = [f"{host}:{rank}" for rank, host in enumerate(hosts)]
    yield "\t".join([name, *ranks]) + "\t"
    for rank, line in zip(ranks, np.nan_to_num(values), strict=True):
        yield "\t".join([f"{rank} {direction}", *(f"{value:0.3f}" for value in line)]) + "\t"


def _remarks(matrix: Matrix) -> Iterator[str]:
    if matrix.valid is not None:
        yield f"# Validation: {'Pass' if matrix.valid else 'Fail'}"
    for what, waited, others in matrix.disturbed:
        yield f"# disturbed: {what}: {disturbed_mark(True, waited, others)}"
