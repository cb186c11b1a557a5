"""A benchmark from its first size to its last: prepare all sides, check them, let them take turns, make rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ryzen_mpi.bench import collectives, pointtopoint
from ryzen_mpi.bench.catalog import Benchmark
from ryzen_mpi.bench.measure import Samples, measure, prepare_memcpy
from ryzen_mpi.bench.memory import last_level_cache, rotation, shared_memory_limit
from ryzen_mpi.bench.options import Options
from ryzen_mpi.bench.prepared import Prepared, Unavailable, shape
from ryzen_mpi.bench.rows import Row, bus_factor, collective_row, message_row
from ryzen_mpi.bench.sides import Side, open_sides
from ryzen_mpi.bench.validate import wrong_elements
from ryzen_mpi.cluster.world import World
from ryzen_mpi.errors import UserError
from ryzen_mpi.units import bytes_text

MEMCPY = "memcpy"


@dataclass
class Result:
    """What a benchmark found.

    Attributes:
        benchmark, options: what was asked for.
        ranks, nodes: who took part.
        rows: by backend, in the order of the sizes.
        absent: backends that measured nothing, with the reason.
        cache_bytes: of the last-level cache the memory went beyond, and how that is known.
    """

    benchmark: Benchmark
    options: Options
    ranks: int
    nodes: int
    rows: dict[str, list[Row]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    cache_bytes: tuple[int, str] = (0, "")

    @property
    def wrong(self) -> list[Row]:
        """Rows whose results were wrong (-c)."""
        return [row for rows in self.rows.values() for row in rows if row.valid is False]


def check_ranks(world: World, benchmark: Benchmark) -> None:
    """Raises UserError, on all ranks alike, where the benchmark can't run on so many ranks. Local."""
    if benchmark.family in ("latency", "bandwidth") and world.size != 2:
        raise UserError(
            f"{benchmark.name} is between two ranks, and {world.size} started", "mpirun -np 2; all_pairs takes more"
        )
    if world.size < 2:
        raise UserError(f"{benchmark.name} needs at least two ranks, and {world.size} started", "mpirun -np 2")


def run(world: World, benchmark: Benchmark, options: Options, tell: Callable[[int, list[Row]], None]) -> Result:
    """The figures of a benchmark of the families collective, latency and bandwidth. Collective; the same on all ranks.

    `tell(number, rows)` is called on every rank after each size. Raises UserError where it can't run, or where no
    backend that was asked for can.
    """
    check_ranks(world, benchmark)
    result = Result(benchmark, options, world.size, world.nodes, cache_bytes=last_level_cache())
    result.rows = {name: [] for name in options.backends}
    with open_sides(world, options.backends) as sides:
        for number, size in enumerate(options.sizes()):
            rows = measure_size(world, sides, benchmark, options, size, result.cache_bytes[0])
            for row in rows:
                result.rows[row.backend].append(row)
            tell(number, rows)
    drop_absent(result)
    return result


def drop_absent(result: Result) -> None:
    """Moves backends without a single figure from rows to absent. Local. Raises UserError where none is left."""
    for name, rows in list(result.rows.items()):
        if all(row.unavailable for row in rows):
            result.absent[name] = "; ".join(dict.fromkeys(str(row.unavailable) for row in rows))
            del result.rows[name]
    if not result.rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in result.absent.items())
        raise UserError(f"{result.benchmark.name}: nothing could be measured", reasons)


def measure_size(
    world: World, sides: dict[str, Side | Unavailable], benchmark: Benchmark, options: Options, size: int, cache: int
) -> list[Row]:
    """The rows of all sides at `size` bytes. Collective; the same on all ranks."""
    comm, iterations = world.comm, benchmark.iterations(size, options.iterations, options.warmup)
    ready, refused, valid = _prepare_all(world, sides, benchmark, options, size, cache)
    try:
        for prepared in ready.values():
            prepared.clear()
        # as in OSU: ranks meet before each call of a collective; a ping-pong and a barrier meet by themselves
        meet = benchmark.family == "collective" and benchmark.operation != "barrier"
        samples = measure(comm, ready, *iterations, meet=meet) if set(ready) - {MEMCPY} else {}
    finally:
        for prepared in ready.values():
            prepared.release()
    rows = []
    for name in sides:
        if name in refused:
            rows.append(Row(name, size, unavailable=refused[name]))
        else:
            row = _row(name, samples, benchmark, options, size, world.size)
            rows.append(replace(row, valid=valid.get(name)))
    return rows


def _row(name: str, samples: dict[str, Samples], benchmark: Benchmark, options: Options, size: int, ranks: int) -> Row:
    memcpy = samples.get(MEMCPY)
    if benchmark.family != "collective":
        return message_row(name, size, samples[name], memcpy, benchmark.operation, options.percentiles)
    item = options.datatype.size
    total = shape(benchmark.operation, size // item, item, ranks).total_bytes if size else 0
    factor = bus_factor(benchmark.operation, ranks)
    return collective_row(name, size, samples[name], memcpy, total, factor, options.percentiles)


def _prepare_all(
    world: World, sides: dict[str, Side | Unavailable], benchmark: Benchmark, options: Options, size: int, cache: int
) -> tuple[dict[str, Prepared], dict[str, str], dict[str, bool]]:
    """What is ready, what is refused and why, and whether results were right (with -c). Collective."""
    ready: dict[str, Prepared] = {}
    refused: dict[str, str] = {}
    valid: dict[str, bool] = {}
    for name, side in sides.items():
        try:
            if isinstance(side, Unavailable):
                raise side
            buffers = agreed_buffers(world, benchmark.operation, size, options, cache, name == "arena")
            ready[name] = prepare_side(world, side, benchmark.operation, size, options, buffers)
            if options.validate:
                peer = 1 - world.rank if benchmark.family != "collective" else 0
                wrong = wrong_elements(world.comm, ready[name], benchmark.operation, options.datatype, peer)
                valid[name] = wrong == 0
        except (Unavailable, UserError) as error:  # all ranks alike: every reason is a fact all of them know
            refused[name] = str(error)
            if name in ready:
                ready.pop(name).release()
    if size and ready:
        ready[MEMCPY] = prepare_memcpy(size, max(1, rotation(2 * size, cache, options.memory_limit)))
    return ready, refused, valid


def agreed_buffers(
    world: World, operation: str, size: int, options: Options, cache: int, in_shared_memory: bool
) -> int:
    """Sets of memory all ranks can have. Collective. Raises Unavailable where not even one fits."""
    item = options.datatype.size
    if size % item:
        raise Unavailable(f"{size} bytes are no whole number of {options.datatype.name} ({item} bytes)")
    footprint = shape(operation, size // item, item, world.size).footprint
    limit = options.memory_limit
    if in_shared_memory:
        limit = min(limit, shared_memory_limit(world.local_size))
    buffers = min(world.exchange.allgather(rotation(footprint, cache, limit)))
    if buffers < 1:
        raise Unavailable(f"needs {bytes_text(footprint)} a rank; the limit is {bytes_text(limit)} (-M)")
    return buffers


def prepare_side(world: World, side: Side, operation: str, size: int, options: Options, buffers: int) -> Prepared:
    """One backend's operation, ready to be called. Collective. Raises Unavailable or UserError, on all ranks alike."""
    count, datatype = size // options.datatype.size, options.datatype
    if operation in ("ring_all_reduce", "tree_all_reduce"):
        messages: Any = side.messages(datatype)
        return collectives.prepare(messages, operation, count, datatype, buffers, world.rank, world.size)
    if operation in ("latency", "bw", "bibw"):
        messages = side.messages(datatype)
        return pointtopoint.prepare(messages, operation, count, datatype, buffers, (0, 1), world.rank)
    return side.prepare(operation, count, datatype, buffers)
