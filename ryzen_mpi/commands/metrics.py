"""`ryzen-mpi metrics RUN`: a run's metrics on standard output."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ryzen_mpi.errors import UserError


@click.command("metrics")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--csv", is_flag=True, help="CSV with every figure of every step and rank, instead of a table.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N steps, or samples.")
@click.option("--samples", is_flag=True, help="What was sampled of machines, network and run health, not the steps.")
@click.option("--follow", is_flag=True, help="Go on with new rows as they come, until the run is complete or Ctrl-C.")
@click.option("--compare", "other", type=click.Path(path_type=Path), metavar="RUN2", help="Beside another run.")
def metrics_command(run: Path, csv: bool, last: int | None, samples: bool, follow: bool, other: Path | None) -> None:
    """Show the metrics of RUN, a run directory or a metrics.h5, also while the run goes on.

    \b
    ryzen-mpi metrics runs/mine --follow
    ryzen-mpi metrics runs/mine --samples --csv > samples.csv
    ryzen-mpi metrics runs/mine --compare runs/other
    """
    from ryzen_mpi.metrics.reader import metrics_file

    name = "samples" if samples else "training"
    if other is not None:
        if samples or follow:
            raise UserError("--compare goes with neither --samples nor --follow", "give one of them")
        _compare(run, other, csv, last)
    elif follow:
        with contextlib.suppress(KeyboardInterrupt):
            _follow(metrics_file(run), name, csv, last)
    else:
        _show(metrics_file(run), name, csv, last)


def _show(path: Path, name: str, csv: bool, last: int | None) -> None:
    from ryzen_mpi.metrics import tables
    from ryzen_mpi.metrics.reader import read_metrics

    metrics = read_metrics(path)
    if csv:
        for line in tables.csv(metrics, name, tables.tail(last)):
            click.echo(line)
    elif not len(metrics[f"{name}/step"]):
        click.echo("no steps yet" if name == "training" else "no samples yet")
    elif sys.stdout.isatty():
        _print(tables.table(metrics, name, tables.tail(last)))
    else:  # rich takes 10 ms a row, and a pipe has no use for its lines
        _echo(tables.head(name))
        _echo(tables.lines(metrics, name, tables.tail(last)))
        if name == "training" and (told := tables.held_out(metrics)):
            click.echo(told)


def _follow(path: Path, name: str, csv: bool, last: int | None) -> None:
    """Prints what is there, the `last` rows of it where given, then what comes."""
    from ryzen_mpi.metrics import tables
    from ryzen_mpi.metrics.follow import Follower

    head: list[str] = []
    metrics = None
    for news in Follower(path, name).news():
        if news is None:
            continue
        first = metrics is None
        metrics = news.metrics
        rows = tables.tail(last) if first and last else news.rows
        new_head, lines = (
            _csv_lines(metrics, name, rows) if csv else (tables.head(name), tables.lines(metrics, name, rows))
        )
        if new_head != head:  # at the start; in CSV also where more ranks go on
            head = new_head
            _echo(head)
        if news.back is not None and not csv:
            click.echo(f"-- back to step {news.back}; what came after it is undone --")
        _echo(lines)
    if metrics is not None and not csv:
        click.echo(f"-- complete{'; ' + told if (told := tables.held_out(metrics)) else ''} --")


def _csv_lines(metrics: Any, name: str, rows: slice) -> tuple[list[str], Iterator[str]]:
    from ryzen_mpi.metrics import tables

    lines = tables.csv(metrics, name, rows)
    return [next(lines)], lines


def _echo(lines: Any) -> None:
    for line in lines:
        click.echo(line)


def _compare(run: Path, other: Path, csv: bool, last: int | None) -> None:
    from ryzen_mpi.report.compare import compared, comparison_csv, comparison_table, sentences

    found = compared(run, other, last)
    if csv:
        _echo(comparison_csv(found))
        return
    _print(comparison_table(found))
    _echo(sentences(found))


def _print(table: object) -> None:
    """Prints the table: fitted to a terminal, and in a pipe as wide as it is."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
