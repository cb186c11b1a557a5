"""`ryzen-mpi scale`: how throughput follows the number of ranks, measured and taken apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ryzen_mpi.errors import UserError

if TYPE_CHECKING:
    from ryzen_mpi.scaling.measure import Kept
    from ryzen_mpi.scaling.plan import Plan

EXIT_INVALID, EXIT_INSUFFICIENT = 1, 3


@click.command("scale")
@click.option("--ranks", default="1,2,4", show_default=True, metavar="N,N", help="Numbers of ranks; 1 is the base.")
@click.option("--mode", default="strong,weak", show_default=True, metavar="strong,weak", help="One of them, or both.")
@click.option("--config", default="scaling_benchmark", show_default=True, metavar="NAME|FILE", help="Profile or file.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1, 1000), help="Launches of each kind.")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1, 100_000), help="Measured a launch.")
@click.option("--warmup", default=5, show_default=True, type=click.IntRange(1, 100_000), help="Steps dropped before.")
@click.option("--limit", default=900.0, show_default=True, type=click.FloatRange(1), help="Seconds a launch may take.")
@click.option("--out", metavar="DIR", help="Where it is kept; goes on there.  [default: runs/<time>-scaling]")
@click.option("--published", is_flag=True, help="Take the documents' 20.22 times apart; measures nothing.")
@click.option("--examine", multiple=True, metavar="FILE...", help="Results from outside: can they be true?")
@click.argument("words", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
def command(
    ranks: str,
    mode: str,
    out: str | None,
    published: bool,
    examine: tuple[str, ...],
    words: tuple[str, ...],
    **more: Any,
) -> None:
    """Launch the real training step on each number of ranks, repeatedly, and say what is gained, and why not more.

    \b
    ryzen-mpi scale --ranks 1,2,4 --mode strong,weak
    ryzen-mpi scale --out runs/20260102-030405-scaling    # goes on where it was stopped
    ryzen-mpi scale --examine scaling_strong_*.json

    Exit code 0; 1 where something cannot be true (INVALID), 2 for wrong use, 3 where launches are missing or too short.
    """
    if published:
        sys.exit(_published(out))
    if examine:
        sys.exit(_examine([Path(name) for name in (*examine, *words)]))
    from ryzen_mpi.rundir import new_run_path
    from ryzen_mpi.scaling.launch import find_nodes
    from ryzen_mpi.scaling.measure import measure
    from ryzen_mpi.scaling.plan import make_plan

    numbers, modes = _numbers(ranks), [each.strip() for each in mode.split(",")]
    _stop_in_order()
    nodes = find_nodes()
    plan = make_plan(
        more["config"], words, numbers, modes, nodes, more["repeats"], more["steps"], more["warmup"], more["limit"]
    )
    if 1 not in numbers:
        click.echo("1 rank is measured too: efficiency is against it")
    folder = Path(out).expanduser() if out else new_run_path("scaling")
    if out is None:
        click.echo(f"kept in {folder}; goes on with --out {folder}")
    try:
        kept = measure(plan, folder, nodes, click.echo)
    except KeyboardInterrupt:
        click.echo(f"interrupted; what is measured is kept: --out {folder}", err=True)
        sys.exit(130)
    sys.exit(_conclude(plan, kept, folder))


def _stop_in_order() -> None:
    """Makes SIGTERM, as a batch system sends it, end the ranks too: they live in sessions of their own. Local."""
    import signal

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--ranks {text}: not numbers of ranks", "as in --ranks 1,2,4") from None


def _conclude(plan: Plan, kept: Kept, folder: Path) -> int:
    """Writes and shows the report; returns the exit code."""
    from ryzen_mpi.scaling import documents
    from ryzen_mpi.scaling.compose import report

    result = report(kept.launches, dict.fromkeys(plan.modes, plan.ranks), kept.failed, kept.values)
    _write(folder, result, documents.documents(kept.launches, result))
    _show(result)
    click.echo(f"report: {folder / 'scaling.json'}, scaling.md, and a file a configuration")
    return EXIT_INVALID if result["problems"] else EXIT_INSUFFICIENT if result["insufficient"] else 0


def _write(folder: Path, result: dict[str, Any], files: dict[str, Any]) -> None:
    """Raises UserError."""
    import json

    from ryzen_mpi.rundir import write_atomic
    from ryzen_mpi.scaling.show import markdown

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in files.items():
            write_atomic(folder / name, json.dumps(values, indent=1, allow_nan=False) + "\n")
        write_atomic(folder / "scaling.md", markdown(result))
        write_atomic(folder / "scaling.json", json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror or error}", "choose another with --out") from None


def _show(result: dict[str, Any]) -> None:
    from ryzen_mpi.console import Console
    from ryzen_mpi.scaling import show

    console = Console(leader=True)
    for mode in ("strong", "weak"):
        if result[mode]:
            console.table(f"{mode} scaling", show.rows(result[mode]), show.COLUMNS)
    console.line(show.legend(result))
    if said := show.loss_line(result):
        console.line(said)
    for title, lines in show.notes(result):
        console.line(f"{title}:")
        for line in lines:
            console.line(f"  - {line}")
    console.line(result["headline"])


def _published(out: str | None) -> int:
    from ryzen_mpi.console import Console
    from ryzen_mpi.scaling import published

    result = published.report()
    if out:
        _write(Path(out).expanduser(), result, {})
    console = Console(leader=True)
    console.table("the documents' scaling, from their own numbers", published.rows(), ("what", "figure", "from"))
    for line in result["problems"]:
        console.line(f"  - {line}")
    console.line(result["headline"])
    return EXIT_INVALID


def _examine(paths: list[Path]) -> int:
    from ryzen_mpi.scaling.examine import examine

    found = examine(paths)
    for line in found:
        click.echo(f"  - {line}")
    click.echo(f"INVALID: {len(found)} problems" if found else "nothing in it that cannot be true")
    return EXIT_INVALID if found else 0
