"""`ryzen-mpi generate`: text from a trained model."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("generate")
@click.option("--run", "run_dir", required=True, metavar="DIR", help="Run directory of a training.")
@click.option("--prompt", required=True, metavar="TEXT", help="What the model goes on from.")
@click.option("--tokens", default=200, show_default=True, type=click.IntRange(1), help="How many tokens to add.")
@click.option("--temperature", default=0.7, show_default=True, type=click.FloatRange(0), help="0: the likeliest.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Another seed, another text.")
def command(run_dir: str, prompt: str, tokens: int, temperature: float, seed: int) -> None:
    """Continue a text with the newest good checkpoint of a run."""
    from ryzen_mpi.data.choose import open_source
    from ryzen_mpi.errors import UserError
    from ryzen_mpi.model.generate import generate
    from ryzen_mpi.rundir import RunDirectory
    from ryzen_mpi.settings import load_settings
    from ryzen_mpi.training.state import load_model

    run = RunDirectory(Path(run_dir).expanduser())
    if not run.config.is_file():
        raise UserError(
            f"{run.path} is no run directory: it has no {run.config.name}",
            "the path that training printed as its run directory",
        )
    settings = load_settings(str(run.config))
    model, checkpoint, damaged = load_model(settings, run.checkpoints)
    for item in damaged:
        click.echo(f"warning: {item.message}; the one before it is used", err=True)
    source = open_source(settings, run.data)
    start = [int(token) for token in source.encode(prompt)]
    if not start:
        raise UserError("the prompt is empty", "give at least one character with --prompt")
    click.echo(f"[{run.path.name}, step {checkpoint.step}]", err=True)
    made = [t for t in generate(model, start, tokens, temperature, seed) if t < source.vocab_size]
    sys.stdout.write(source.decode([*start, *made]) + "\n")
