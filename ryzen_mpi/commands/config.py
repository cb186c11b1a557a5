"""`ryzen-mpi config`: what a profile means, before anything is allocated."""

from __future__ import annotations

import click


@click.command("config")
@click.option("--config", "name", default="default", show_default=True, metavar="NAME|FILE", help="Profile or file.")
@click.option("--ranks", default=4, show_default=True, type=click.IntRange(1), help="Ranks to reckon for.")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
def command(name: str, ranks: int, overrides: tuple[str, ...]) -> None:
    """Show resolved settings, parameter count and memory. Profiles: see --config with an unknown name."""
    from ryzen_mpi.console import Console
    from ryzen_mpi.settings import dump_settings, load_settings

    settings = load_settings(name, overrides)
    click.echo(dump_settings(settings))

    from ryzen_mpi.model.transformer import parameter_count
    from ryzen_mpi.training.memory import need
    from ryzen_mpi.units import bytes_text, count_text

    parameters = parameter_count(settings)
    rows = [
        ("parameters", f"{count_text(parameters)} ({parameters:,})"),
        ("global batch", f"{settings.global_batch(ranks)} samples a step on {ranks} ranks"),
        (f"memory of a node of {ranks} ranks", f"{bytes_text(need(settings, ranks).node)} (more: ryzen-mpi plan)"),
    ]
    Console(leader=True).table("reckoned", rows, ("what", "value"))
