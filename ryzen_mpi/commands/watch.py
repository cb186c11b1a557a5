"""`ryzen-mpi watch`: runs on a page that follows them, or in a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ryzen_mpi.watch.finding import Runs
    from ryzen_mpi.watch.gates import Gates

_PATH = click.Path(path_type=Path)
PORT = 8321


@click.command("watch")
@click.argument("runs", type=_PATH, nargs=-1, metavar="[RUN]...")
@click.option("--runs", "folder", type=_PATH, metavar="DIR", help="All runs in DIR, also later ones.  [default: runs]")
@click.option("--results", type=_PATH, metavar="DIR", help="Results of `validate`.  [default: beside the runs]")
@click.option("--expect", type=click.FloatRange(min=0, min_open=True), metavar="RATE", help="Samples/s to expect.")
@click.option("--tty", is_flag=True, help="In this terminal, not on a page. In a pipe: once, as text.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the page.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: a free one.")
def command(
    runs: tuple[Path, ...],
    folder: Path | None,
    results: Path | None,
    expect: float | None,
    tty: bool,
    host: str,
    port: int,
) -> None:
    """Show each RUN, a run directory, on a page that follows it while it trains; or all runs in a folder.

    \b
    ryzen-mpi watch                               # every run in runs/, on a page
    ryzen-mpi watch runs/20260301-120000-default
    ryzen-mpi watch --tty --runs /scratch/me/runs

    Reads the directories and changes nothing in them: a run neither waits for it nor notices it. Ends with Ctrl-C.
    """
    from ryzen_mpi.errors import UserError
    from ryzen_mpi.watch.finding import Runs
    from ryzen_mpi.watch.gates import Gates

    if runs and folder is not None:
        raise UserError("either run directories or --runs DIR", "a run in DIR is shown with the others")
    if results is not None and not results.is_dir():
        raise UserError(f"no folder {results}", "--results DIR, which holds validation-1, validation-2a, ...")
    watched = Runs(runs, None if runs else folder or Path("runs"), expect)
    roots = [results] if results else [path.resolve().parent for path in runs] or [folder or Path("runs")]
    gates = Gates(roots)
    if tty:
        from ryzen_mpi.watch.terminal import show

        show(watched, gates)
    else:
        _serve(watched, gates, host, port)


def _serve(runs: Runs, gates: Gates, host: str, port: int) -> None:
    import getpass
    import os

    from ryzen_mpi.errors import UserError

    try:
        from ryzen_mpi.watch.server import listen, make_app, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UserError(
            f"the page needs {error.name}, which is not installed",
            "pip install 'ryzen-mpi[watch]'; --tty shows the same in the terminal without it",
        ) from None
    made = listen(host, port)
    port = made.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    where = "127.0.0.1" if host in ("0.0.0.0", "::") else shown
    count = len(runs.all())
    click.echo(f"watching {count} run{'' if count == 1 else 's'}: http://{where}:{port}/")
    click.echo(f"from another machine: ssh -L {port}:{where}:{port} {getpass.getuser()}@{os.uname().nodename}")
    click.echo("then open the same address there. Ctrl-C ends this; the runs do not notice.")
    if host not in ("127.0.0.1", "localhost", "::1"):
        click.echo(f"note: everybody who reaches {shown} sees this page; it has no password", err=True)
    sys.stdout.flush()
    serve(make_app(runs, gates, host), made)
