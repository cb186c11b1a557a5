"""`ryzen-mpi resize`: another number of ranks for a run that is being supervised, at its next step."""

from __future__ import annotations

import sys
from pathlib import Path

import click

TELL_EVERY_S = 5.0


@click.command("resize")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("processes", type=click.IntRange(min=1), metavar="N")
@click.option("--why", default="", metavar="TEXT", help="For the record: events/supervisor.jsonl.")
def command(run: Path, processes: int, why: str) -> None:
    """Go on with N ranks: those of RUN, a supervised run directory, save and leave at their next step.

    \b
    ryzen-mpi resize runs/phase2b-17 8

    Every sample is still trained exactly once. Returns when the N ranks train.
    """
    click.echo(ask(run, "resize", processes, None, why))


def ask(path: Path, kind: str, ranks: int | None, step: int | None, why: str) -> str:
    """Puts a request to the supervisor of run `path` and returns its answer. Raises UserError for a refusal.

    Ctrl-C ends the wait and not the request: exit code 130.
    """
    from ryzen_mpi.errors import UserError
    from ryzen_mpi.rundir import RunDirectory
    from ryzen_mpi.supervisor import requests
    from ryzen_mpi.supervisor.files import Files

    path = path.expanduser().absolute()
    if not path.is_dir():
        raise UserError(f"there is no run directory {path}", "give the one that the supervisor named when it began")
    files = Files(RunDirectory(path))
    request = requests.put(files, kind, ranks, step, why)
    told = 0.0

    def tell(waited_s: float) -> None:
        nonlocal told
        if waited_s - told >= TELL_EVERY_S:
            told = waited_s
            print(f"waiting for the supervisor's answer, {waited_s:.0f} s so far", file=sys.stderr, flush=True)

    try:
        return requests.wait_for_answer(files, request, tell)
    except KeyboardInterrupt:
        print(f"\nnobody waits any more, but the request stays: {kind} in {files.requests}", file=sys.stderr)
        sys.exit(130)
