"""`mpirun -np 4 python -m ryzen_mpi.train`: the main job.

`train` reads from top to bottom: discover, bind, connect, build, loop, close. Heavy imports wait until they are needed,
so that `--help` and a mistyped key answer at once, and until the rank is bound, so that PyTorch's threads start where
they stay.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ryzen_mpi.cluster.world import World
    from ryzen_mpi.training.evaluate import HeldOut
    from ryzen_mpi.training.step import TrainingStep
    from ryzen_mpi.training.stop import StopRequest
    from ryzen_mpi.training.tools import Tools


@click.command("train")
@click.option("--config", default="default", show_default=True, metavar="NAME|FILE", help="Profile or YAML file.")
@click.option(
    "--run-dir",
    metavar="DIR",
    help="Where the run is kept; continued if it holds checkpoints.  [default: runs/<time>-<profile>]",
)
@click.option(
    "--resume",
    default="auto",
    show_default=True,
    metavar="auto|never|PATH",
    help="auto: newest good checkpoint of the run directory. PATH: another run, or a checkpoint of one.",
)
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
def command(config: str, run_dir: str | None, resume: str, overrides: tuple[str, ...]) -> None:
    """Train a transformer on the ranks this is started on.

    \b
    mpirun -np 4 python -m ryzen_mpi.train
    mpirun -np 4 python -m ryzen_mpi.train --config scaling_benchmark hardware.dtype=bfloat16
    mpirun -np 4 python -m ryzen_mpi.train data.paths=~/books model.seq_length=512
    """
    for early in (signal.SIGTERM, signal.SIGUSR1):  # until training takes them over, they end the rank as Ctrl-C does
        signal.signal(early, signal.default_int_handler)
    from ryzen_mpi.cluster.job import run_job

    sys.exit(run_job(lambda world: train(world, config, overrides, run_dir, resume)))


def train(world: World, config: str, overrides: tuple[str, ...], run_dir: str | None, resume: str) -> int:
    """The whole job on one rank; returns the exit code. Collective. Raises UserError."""
    from ryzen_mpi import startup
    from ryzen_mpi.cluster.allocator import keep_freed_memory
    from ryzen_mpi.cluster.job import leader_decides
    from ryzen_mpi.console import Console
    from ryzen_mpi.settings import load_settings

    began = time.monotonic()
    console = Console(world.is_leader)
    settings = load_settings(config, overrides)
    startup.check_processes(world, settings)
    keep_freed_memory()
    place = startup.bind_ranks(world, settings)

    import torch

    from ryzen_mpi.comm.rendezvous import process_group
    from ryzen_mpi.finish import Ending, close_run, show_summary
    from ryzen_mpi.training.state import restore
    from ryzen_mpi.training.step import TrainingStep
    from ryzen_mpi.training.stop import StopRequest
    from ryzen_mpi.training.tools import open_tools

    torch.set_num_threads(settings.hardware.num_threads or place.mine.threads)
    need = startup.check_memory(world, settings)
    run = startup.claim_run_directory(world, run_dir, config)
    with StopRequest() as stop, process_group(world, settings.distributed) as group:
        source, corpus, checkpoint = startup.open_data(world, settings, run, resume, console, stop)
        batch = startup.choose_global_batch(world, settings, checkpoint)
        step = TrainingStep(settings, source, world.rank, world.size, batch[0])
        restore(step, checkpoint)
        del checkpoint  # three times the model's size on rank 0
        total = step.total_steps
        facts = startup.model_facts(settings, source, need, batch, total)
        startup.show(console, world, settings, run, place, group, facts)

        if step.progress.step >= total and (summary := leader_decides(world, run.read_complete)):
            console.line("this run is complete: nothing is left to train")
            show_summary(console, summary, run)
            return 0

        tools = open_tools(world, settings, run, console, step, corpus, total, config)
        tools.meet()
        held_out, stopped = loop(step, tools, total, stop)
        tools.saver.close()
        ending = Ending(total, held_out, stopped, time.monotonic() - began)
        close_run(world, settings, run, console, step, tools, ending)
    return 0


def loop(step: TrainingStep, tools: Tools, total: int, stop: StopRequest) -> tuple[HeldOut | None, int]:
    """Steps up to `total`, or until some rank is asked to stop. Collective.

    Returns the newest held-out figures, if any were taken, and the signal it was stopped with, or 0.
    """
    training, held_out, stopped = step.settings.training, None, 0
    with tools.progress:
        while step.progress.step < total and not stopped:
            before = step.progress.samples
            outcome = step.run(stop.signal)
            tools.recorder.step(outcome, step.progress.samples - before)
            stopped, last = outcome.stop, outcome.step == total
            if not stopped and (outcome.step % training.eval_interval == 0 or last):
                held_out = step.evaluate()
                tools.recorder.evaluation(outcome.step, held_out)
            if outcome.step % training.save_interval == 0 or stopped or last:
                tools.recorder.finish(step.last_times())  # first: no checkpoint may be ahead of its records
                tools.saver.save(step)
                tools.meet()
    if held_out is None and not stopped:  # resumed at its very end
        held_out = step.evaluate()
    return held_out, stopped


if __name__ == "__main__":
    command()
