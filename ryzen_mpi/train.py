"""`mpirun -np 4 python -m ryzen_mpi.train`: the main job.

`train` reads from top to bottom: discover, bind, connect, build, loop, close. Heavy imports wait until they are needed,
so that `--help` and a mistyped key answer at once, and until the rank is bound, so that PyTorch's threads start where
they stay.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ryzen_mpi.beacon import Beacon, open_beacon
from ryzen_mpi.training.stop import STOP_SIGNALS

if TYPE_CHECKING:
    from ryzen_mpi.cluster.world import World
    from ryzen_mpi.health.monitor import Back
    from ryzen_mpi.health.watch import Watch
    from ryzen_mpi.rundir import RunDirectory
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
    beacon = open_beacon()

    def leave(number: int, _: object) -> None:  # until training takes the signals over: there is nothing to save
        name = signal.Signals(number).name
        beacon.tell("stopped", f"{name} before the first step")
        raise KeyboardInterrupt(name)

    for early in STOP_SIGNALS:
        signal.signal(early, leave)
    from ryzen_mpi.cluster.job import run_job

    sys.exit(run_job(lambda world: train(world, beacon, config, overrides, run_dir, resume), beacon.tell))


def train(
    world: World, beacon: Beacon, config: str, overrides: tuple[str, ...], run_dir: str | None, resume: str
) -> int:
    """The whole job on one rank; returns the exit code. Collective. Raises UserError."""
    from ryzen_mpi import startup
    from ryzen_mpi.cluster.allocator import keep_freed_memory
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.console import Console
    from ryzen_mpi.settings import load_settings

    began = time.monotonic()
    console = Console(world.is_leader)
    settings = load_settings(config, overrides)
    startup.check_processes(world, settings)
    place = bind_ranks(world, settings)

    import torch

    from ryzen_mpi.cluster.gauges import Gauges
    from ryzen_mpi.comm.rendezvous import process_group
    from ryzen_mpi.finish import Ending, close_run, show_complete
    from ryzen_mpi.health.watch import watch_over
    from ryzen_mpi.training.choose import make_strategy
    from ryzen_mpi.training.state import restore
    from ryzen_mpi.training.stop import StopRequest
    from ryzen_mpi.training.tools import open_tools
    from ryzen_mpi.training.virtual import make_step, threads
    from ryzen_mpi.training.witness import Witness

    torch.set_num_threads(threads(settings, place.mine.threads))
    need = startup.check_memory(world, settings, place.domains)
    run = startup.claim_run_directory(world, run_dir, config)
    beacon.beat("connect")
    witness = Witness(world, run, beacon)
    # Inside as well as outside: a process group that lost a rank takes its time to close, and the guard must know now.
    with witness, StopRequest() as stop, process_group(world, settings.distributed) as group, witness:
        beacon.beat("data")
        source, corpus, checkpoint = startup.open_data(world, settings, run, resume, console, stop, beacon)
        beacon.beat("restore")
        batch = startup.choose_global_batch(world, settings, checkpoint)
        strategy = partial(make_strategy, domain=place.mine.domain)
        step = make_step(settings, source, world.rank, world.size, batch[0], strategy=strategy)
        restore(world, step, checkpoint)
        keep_freed_memory()  # not before: what starting up took once would stay
        total = step.total_steps
        facts = startup.model_facts(settings, source, need, batch, total, step.strategy.description)
        startup.show(console, world, settings, run, place, group, facts)
        beacon.beat(step=step.progress.step)

        if step.progress.step >= total and show_complete(world, run, console):
            beacon.tell("complete", "was complete before")
            return 0

        with closing(Gauges(settings.monitor.sample_s, heat=Path(settings.monitor.sensors))) as gauges:
            watch = watch_over(world, step, gauges, beacon)
            opened = partial(open_tools, world, settings, run, console, step, corpus, config, watch.figures)
            tools, held_out, stopped = train_on(world, run, step, opened, stop, beacon, watch)
        ending = Ending(step.total_steps, held_out, stopped, time.monotonic() - began, stop.since_agreed_s)
        close_run(world, settings, run, console, step, tools, ending)
        beacon.tell(*ending.told(step.progress.step))
    return 0


def train_on(
    world: World,
    run: RunDirectory,
    step: TrainingStep,
    opened: Callable[[], Tools],
    stop: StopRequest,
    beacon: Beacon,
    watch: Watch,
) -> tuple[Tools, HeldOut | None, int]:
    """Trains to the end, or until it is stopped, however often the monitor wants to go back. Collective.

    Returns the tools it ended with, and what `loop` does.
    """
    from ryzen_mpi.training.back import go_back

    while True:
        tools = opened()
        held_out, stopped, back = loop(step, tools, step.total_steps, stop, beacon, watch)
        if back is None:
            return tools, held_out, stopped
        beacon.beat("restore")
        tools.leave(step, back.act.evidence)
        watch.begin(go_back(world, run, step, back.before, back.detour))


def loop(
    step: TrainingStep, tools: Tools, total: int, stop: StopRequest, beacon: Beacon, watch: Watch
) -> tuple[HeldOut | None, int, Back | None]:
    """Steps up to `total`, or until some rank is asked to stop, or the monitor wants to go back. Collective.

    Returns the newest held-out figures, if any were taken, the signal it was stopped with, or 0, and where to go back
    to, or None; the last checkpoint is on disk then, unless training is to go back.
    """
    training, held_out, stopped, trained_s = step.settings.training, None, 0, 0.0
    tools.lead(lambda: None)
    with tools.progress:
        while step.progress.step < total and not stopped:
            beacon.beat("train")
            before = step.progress.samples
            outcome = step.run(stop.signal)
            tools.recorder.step(outcome, step.progress.samples - before)
            trained_s += outcome.step_s
            beacon.beat(step=outcome.step, trained_s=trained_s, saved=tools.saver.look())
            last, due = outcome.step == total, outcome.step % training.save_interval == 0
            back = watch.after(tools, saving=bool(due or last or outcome.stop))
            if back is not None:
                return held_out, 0, back
            stopped = stop.agreed(outcome.stop or watch.stop)
            if not stopped and (outcome.step % training.eval_interval == 0 or last):
                beacon.beat("evaluate")
                held_out = step.evaluate(beacon.beat)
                tools.recorder.evaluation(outcome.step, held_out)
            if due or stopped or last:
                beacon.beat("save")
                tools.recorder.finish(step.last_times())  # first: no checkpoint may be ahead of its records
                tools.save(step)
    if held_out is None and not stopped:  # resumed at its very end
        beacon.beat("evaluate")
        held_out = step.evaluate(beacon.beat)
    beacon.beat("save")
    tools.close(step)
    beacon.beat("leave", saved=tools.saver.look())
    return held_out, stopped, None


if __name__ == "__main__":
    command()
