"""`ryzen-mpi COMMAND`: every command in a module of its own, imported when it is asked for."""

from __future__ import annotations

import importlib
import sys

import click

from ryzen_mpi import __version__
from ryzen_mpi.errors import EXIT_USER_ERROR, UserError

# name -> (module, attribute, line of help): --help must not import what the commands need
_COMMANDS = {
    "train": ("ryzen_mpi.train", "command", "Train a transformer on the ranks this is started on."),
    "supervise": ("ryzen_mpi.supervise", "command", "Train, and go on after whatever breaks."),
    "resize": ("ryzen_mpi.commands.resize", "command", "Go on with another number of ranks, while a run trains."),
    "rollback": ("ryzen_mpi.commands.rollback", "command", "Go on with fewer ranks, or from an older checkpoint."),
    "plan": ("ryzen_mpi.commands.plan", "command", "Reckon memory, operations and communication of a run."),
    "simulate": (
        "ryzen_mpi.commands.simulate",
        "command",
        "Predict throughput, memory and saving on up to 4096 ranks.",
    ),
    "generate": ("ryzen_mpi.commands.generate", "command", "Continue a text with a trained model."),
    "metrics": ("ryzen_mpi.commands.metrics", "metrics_command", "Show or export what a run recorded."),
    "bench": ("ryzen_mpi.commands.bench", "command", "Measure communication: OSU's benchmarks on several backends."),
    "watch": ("ryzen_mpi.commands.watch", "command", "Show runs on a page, or in a terminal, while they train."),
    "report": ("ryzen_mpi.commands.report", "command", "Report runs, scaling, phases, days: page, Markdown, JSON."),
    "scale": ("ryzen_mpi.commands.scale", "command", "Measure how throughput follows the ranks, and take it apart."),
    "submit": ("ryzen_mpi.commands.submit", "command", "Submit a phase to Slurm, or show its batch file."),
    "validate": ("ryzen_mpi.commands.validate", "command", "Run the checks of a phase, and keep what they found."),
    "gate": ("ryzen_mpi.commands.gate", "command", "Judge recorded results: may the next phase start?"),
    "authorise": ("ryzen_mpi.commands.gate", "authorise_command", "Walk the gates of all phases."),
    "config": ("ryzen_mpi.commands.config", "command", "Show settings, parameters and memory without training."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[name]
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.command(cls=_Lazy)
@click.version_option(__version__, prog_name="ryzen-mpi")
def group() -> None:
    """Training of transformers on CPU clusters with nothing but MPI and Slurm.

    \b
    mpirun -np 4 ryzen-mpi train
    """


def main() -> None:
    """The console script: a UserError is shown without a traceback and ends with exit code 2."""
    try:
        group()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
