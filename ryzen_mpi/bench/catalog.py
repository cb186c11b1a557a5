"""The benchmarks by name: title, default datatype, sizes and iterations, as the OSU micro-benchmarks have them.

Source of titles and defaults: OSU Micro-Benchmarks 7 (https://mvapich.cse.ohio-state.edu/benchmarks/), osu_util.h and
osu_util_options.c; every iteration count drops beyond 8192 bytes.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ryzen_mpi.errors import UserError

LARGE_MESSAGE = 8192
"""Bytes beyond which OSU takes fewer iterations."""
WINDOW = 64
"""Messages under way at a time in the bandwidth tests."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as of its script.
        title: OSU's, without the leading "#".
        about: one line for `--list`.
        operation: what is measured; a key of `collectives` or of `pointtopoint`.
        datatype: default of -T.
        smallest, largest: default of -m, bytes.
        small, large: (iterations, warm-up) up to LARGE_MESSAGE and beyond.
        family: "collective", "latency", "bandwidth" or "pairs".
    """

    name: str
    title: str
    about: str
    operation: str
    datatype: str
    smallest: int
    largest: int
    small: tuple[int, int]
    large: tuple[int, int]
    family: str = "collective"

    def iterations(self, size: int, iterations: int | None, warmup: int | None) -> tuple[int, int]:
        """(iterations, warm-up) of a message of `size` bytes; None where the person gave none. Local."""
        default = self.large if size > LARGE_MESSAGE else self.small
        return (default[0] if iterations is None else iterations, default[1] if warmup is None else warmup)


def _collective(name: str, title: str, about: str, operation: str, datatype: str = "char") -> Benchmark:
    smallest = 4 if datatype == "float" else 0 if operation == "barrier" else 1
    largest = 0 if operation == "barrier" else 1 << 20
    return Benchmark(name, title, about, operation, datatype, smallest, largest, (1000, 100), (100, 10))


_ALL = (
    Benchmark(
        *("osu_latency", "OSU MPI Latency Test", "half a round trip between two ranks", "latency", "char"),
        *(1, 1 << 22, (10000, 100), (1000, 10), "latency"),
    ),
    Benchmark(
        *("osu_bw", "OSU MPI Bandwidth Test", "64 messages one way, then an answer", "bw", "char"),
        *(1, 1 << 22, (100, 10), (20, 2), "bandwidth"),
    ),
    Benchmark(
        *("osu_bibw", "OSU MPI Bi-Directional Bandwidth Test", "64 messages each way at once", "bibw", "char"),
        *(1, 1 << 22, (100, 10), (20, 2), "bandwidth"),
    ),
    _collective("osu_allreduce", "OSU MPI Allreduce Latency Test", "the sum to all ranks", "all_reduce", "float"),
    _collective("osu_allgather", "OSU MPI Allgather Latency Test", "every rank's part to all ranks", "all_gather"),
    _collective(
        *("osu_reduce_scatter", "OSU MPI Reduce_scatter Latency Test"),
        *("the sum, a part of it to each rank", "reduce_scatter", "float"),
    ),
    _collective("osu_bcast", "OSU MPI Broadcast Latency Test", "rank 0's message to all ranks", "broadcast"),
    _collective(
        *("osu_alltoall", "OSU MPI All-to-All Personalized Exchange Latency Test"),
        *("a message of every rank for every rank", "all_to_all"),
    ),
    _collective("osu_barrier", "OSU MPI Barrier Latency Test", "all ranks wait for one another", "barrier"),
    _collective(
        *("ring_allreduce", "MPI Ring Allreduce Latency Test"),
        *("all-reduce as a ring of messages", "ring_all_reduce", "float"),
    ),
    _collective(
        *("tree_allreduce", "MPI Binary Tree Allreduce Latency Test"),
        *("all-reduce up and down a binary tree of messages", "tree_all_reduce", "float"),
    ),
    Benchmark(
        *("all_pairs", "mpiGraph", "latency and bandwidth between all pairs of ranks", "pairs", "char"),
        *(1, 1 << 20, (100, 10), (20, 2), "pairs"),
    ),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}


def find(name: str) -> Benchmark:
    """The benchmark of that name. Local. Raises UserError with the nearest name and all that there are."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    near = difflib.get_close_matches(name, [*BENCHMARKS, "tune"], n=1, cutoff=0.4)
    nearest = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"there is no benchmark {name!r}", f"{nearest}there are {', '.join(BENCHMARKS)} and tune")
