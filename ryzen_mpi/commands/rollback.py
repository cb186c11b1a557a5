"""`ryzen-mpi rollback`: back to a checkpoint, or to fewer ranks, for a run that is being supervised."""

from __future__ import annotations

from pathlib import Path

import click

from ryzen_mpi.commands.resize import ask


@click.command("rollback")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--processes", type=click.IntRange(min=1), metavar="N", help="Ranks to go on with.  [default: half of them]"
)
@click.option("--to", type=click.IntRange(min=0), metavar="STEP", help="Checkpoint to go back to.  [default: none]")
@click.option("--why", required=True, metavar="TEXT", help="The cause, for the record: events/supervisor.jsonl.")
def command(run: Path, processes: int | None, to: int | None, why: str) -> None:
    """Go on with fewer ranks, or from an older checkpoint: RUN is a supervised run directory.

    \b
    ryzen-mpi rollback runs/phase2b-17 --why "loss rose after the resize"
    ryzen-mpi rollback runs/phase2b-17 --processes 4 --to 3000 --why "bad samples from 3000 on"

    The ranks save and leave at their next step. With --to, newer checkpoints are kept in checkpoints/set-aside.
    """
    click.echo(ask(run, "rollback", processes, to, why))
