"""From a request to tables and files: measure, print on rank 0, keep what was asked to be kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ryzen_mpi.bench.options import check_parent
from ryzen_mpi.errors import UserError

if TYPE_CHECKING:
    from ryzen_mpi.bench.catalog import Benchmark
    from ryzen_mpi.bench.options import Options
    from ryzen_mpi.bench.pairs import Pairs
    from ryzen_mpi.bench.run import Result
    from ryzen_mpi.cluster.world import World

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
"""Of the checkout this package lies in, where it lies in one."""
EXIT_WRONG_RESULTS = 1


def check_targets(json_path: str | None, hdf5_path: str | None, plot_path: str | None, save: bool) -> None:
    """Raises UserError, before anything is measured, where a file can't be written afterwards. Local."""
    for path, option in ((json_path, "--json"), (hdf5_path, "--hdf5"), (plot_path, "--plot")):
        if path is not None:
            check_parent(path, option)
    if save and not RESULTS.parent.is_dir():
        raise UserError("--save keeps results in a checkout of ryzen_mpi, and this is none", "--json FILE")


def report(world: World, benchmark: Benchmark, options: Options, targets: dict[str, Any]) -> int:
    """Runs a benchmark and shows it; returns the exit code, 1 where -c found wrong results. Collective.

    `targets`: json_path, hdf5_path, plot_path and save, as on the command line. Raises UserError.
    """
    from ryzen_mpi.cluster.job import leader_decides

    run = _pairs if benchmark.family == "pairs" else _rows
    result, wrong = run(world, benchmark, options)
    leader_decides(world, lambda: _keep(result, targets))
    if wrong and world.is_leader:
        print(f"error: -c found wrong results: {wrong}", file=sys.stderr, flush=True)
    return EXIT_WRONG_RESULTS if wrong else 0


def _rows(world: World, benchmark: Benchmark, options: Options) -> tuple[Result, str]:
    from ryzen_mpi.bench.output import OsuTable, absent_block
    from ryzen_mpi.bench.run import run

    table, sizes = OsuTable(benchmark, options), options.sizes()
    alone = len(options.backends) == 1
    watched = world.is_leader and stderr_is_terminal()
    waiting: list[str] = []
    shown = False

    def tell(number: int, rows: list) -> None:
        nonlocal shown
        if world.is_leader and alone:  # line by line, as OSU
            waiting.append(table.line(rows[0]))
            if shown or not rows[0].unavailable:  # where nothing can be measured there is an error, and no table
                _print([*(() if shown else table.head(options.backends[0])), *waiting])
                waiting.clear()
                shown = True
        elif watched:  # the blocks come at the end: all backends are measured side by side
            print(f"measured {sizes[number]} bytes ({number + 1} of {len(sizes)})", file=sys.stderr, flush=True)

    result = run(world, benchmark, options, tell)
    if world.is_leader:
        for backend in () if alone else options.backends:
            if backend in result.absent:
                _print(absent_block(backend, benchmark, result.absent[backend]))
            else:
                _print([*table.head(backend), *(table.line(row) for row in result.rows[backend])])
        _print(table.foot(result.cache_bytes, world.size, world.nodes))
    wrong = ", ".join(f"{row.backend} at {row.bytes} bytes" for row in result.wrong)
    return result, wrong


def _pairs(world: World, benchmark: Benchmark, options: Options) -> tuple[Pairs, str]:
    from ryzen_mpi.bench.output import pairs_lines
    from ryzen_mpi.bench.pairs import run_pairs

    watched = world.is_leader and stderr_is_terminal()

    def tell(what: str) -> None:
        if watched:
            print(f"measuring {what}", file=sys.stderr, flush=True)

    result = run_pairs(world, benchmark, options, tell)
    if world.is_leader:
        _print(pairs_lines(result))
    return result, ", ".join(name for name, matrix in result.matrices.items() if matrix.valid is False)


def _print(lines: Any) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _keep(result: Result | Pairs, targets: dict[str, Any]) -> None:
    """Writes the files; rank 0 alone. Raises UserError."""
    from ryzen_mpi.bench import files

    writers = {"json_path": files.write_json, "hdf5_path": files.write_hdf5, "plot_path": files.write_plot}
    for name, write in writers.items():
        if targets.get(name):
            write(result, Path(targets[name]).expanduser())
    if targets.get("save"):
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{result.benchmark.name}.json"
        files.write_json(result, path)
        print(f"kept in {path.relative_to(RESULTS.parents[1])}", file=sys.stderr)


def stderr_is_terminal() -> bool:
    """Whether the person sees standard error as it comes; under mpirun the launcher's is asked. Local."""
    if "OMPI_COMM_WORLD_RANK" not in os.environ:
        return sys.stderr.isatty()
    try:
        launcher = os.open(f"/proc/{os.getppid()}/fd/2", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.isatty(launcher)
    finally:
        os.close(launcher)
