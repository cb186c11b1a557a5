"""`python -m ryzen_mpi.supervise … -- mpirun … python -m ryzen_mpi.train …`: brings a run to its end, whatever breaks.

`supervise` reads from top to bottom: what is asked, where it runs, which launcher, then the supervisor's loop.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ryzen_mpi.supervisor.run import Asked

EPILOG = "Exit codes: 0 complete, 1 failed, 2 wrong use, 75 stopped and saved: started again, it goes on."


@click.command("supervise", epilog=EPILOG, context_settings={"ignore_unknown_options": False})
@click.option("--run-dir", metavar="DIR", help="The run; also given to the program.  [default: the program's own]")
@click.option("--nodes", type=click.IntRange(min=1), metavar="N", help="Nodes the job must have.")
@click.option("--ranks-per-node", type=click.IntRange(min=1), metavar="N", help="Most ranks a node takes.")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="Give up after more attempts in a row without a new checkpoint.",
)
@click.argument("command", nargs=-1, required=True, metavar="-- LAUNCHER... PROGRAM...")
def command(
    run_dir: str | None, nodes: int | None, ranks_per_node: int | None, retries: int, command: tuple[str, ...]
) -> None:
    """Train under supervision: what breaks is ended, and started again from the newest good checkpoint.

    \b
    python -m ryzen_mpi.supervise -- mpirun -np 4 python -m ryzen_mpi.train
    python -m ryzen_mpi.supervise --nodes 3 --ranks-per-node 4 -- auto python -m ryzen_mpi.train

    LAUNCHER is mpirun or srun with its options, or auto: the one that works in this Slurm job.
    """
    from ryzen_mpi.errors import EXIT_USER_ERROR, UserError

    try:
        sys.exit(supervise(command, run_dir, nodes, ranks_per_node, retries))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def supervise(
    words: tuple[str, ...], run_dir: str | None, nodes: int | None, ranks_per_node: int | None, retries: int
) -> int:
    """The whole of it; returns the exit code. Raises UserError."""
    from ryzen_mpi.cluster import slurm
    from ryzen_mpi.metrics.events import EventLog
    from ryzen_mpi.supervisor import setting
    from ryzen_mpi.supervisor.run import STOPPED, Asked, Supervisor
    from ryzen_mpi.supervisor.voice import Voice

    asked = Asked()
    listen_to_signals(asked)
    allocation = slurm.allocation()
    setting.check_nodes(allocation, nodes)
    job, wanted = setting.read_job(words, run_dir, allocation, ranks_per_node, retries)
    job.run.create()
    lock = job.files.lock()  # held until this process ends
    voice = Voice(EventLog(job.run.events, "supervisor", {"run": job.run.path.name}))
    job = replace(job, command=setting.choose_launcher(job, voice))
    supervisor = Supervisor(job, wanted, voice, asked)
    code = supervisor.run()
    setting.show(supervisor.account.summary(), job.run.path, code)
    if code == STOPPED and allocation is not None and (asked.stop == signal.SIGUSR1 or supervisor.wishes.requeue):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm's, to the job that is requeued
        refusal = supervisor.account.idle_problem() or slurm.requeue(allocation)
        voice.say("requeue", f"job {allocation.job_id} is requeued" if refusal is None else f"not requeued: {refusal}")
    del lock
    return code


def listen_to_signals(asked: Asked) -> None:
    """The first signal has the ranks save and leave; a second Ctrl-C or SIGTERM ends all at once."""

    def ask(number: int, _: object) -> None:
        if asked.stop and number != signal.SIGUSR1:
            from ryzen_mpi.supervisor.attempt import kill_descendants

            kill_descendants()
            sys.exit(128 + number)
        asked.stop = asked.stop or number
        # not print: a signal may come in the middle of one
        os.write(2, f"supervisor: {signal.Signals(number).name}, the ranks save and leave\n".encode())

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, ask)


if __name__ == "__main__":
    command()
