"""`ryzen-mpi metrics RUN`: a run's metrics on standard output."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("metrics")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--csv", is_flag=True, help="CSV with every figure of every step and rank, instead of a table.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N steps.")
def metrics_command(run: Path, csv: bool, last: int | None) -> None:
    """Show the metrics of RUN, a run directory or a metrics.h5, also while the run goes on."""
    from ryzen_mpi.metrics import reader

    metrics = reader.read_metrics(reader.metrics_file(run))
    if csv:
        for line in reader.csv(metrics, last):
            click.echo(line)
    elif len(metrics["training/step"]):
        _show(reader.table(metrics, last))
    else:
        click.echo("no steps yet")


def _show(table: object) -> None:
    """Prints the table: fitted to a terminal, and in a pipe as wide as it is."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
