"""`ryzen-mpi plan`: what a run will take of its nodes, and what to change where it does not fit."""

from __future__ import annotations

import click


@click.command("plan")
@click.option("--config", "name", default="default", show_default=True, metavar="NAME|FILE", help="Profile or file.")
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1), help="Nodes.")
@click.option("--ranks", default=4, show_default=True, type=click.IntRange(1), help="Ranks a node.")
@click.option("--domains", default=1, show_default=True, type=click.IntRange(1), help="NUMA domains of a node.")
@click.option("--memory", metavar="GIB", type=click.FloatRange(0, min_open=True), help="Of a node. [this machine's]")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
def command(name: str, nodes: int, ranks: int, domains: int, memory: float | None, overrides: tuple[str, ...]) -> None:
    """Reckon memory, operations and communication before anything is allocated.

    \b
    ryzen-mpi plan --config production_4process --nodes 1 --ranks 4
    ryzen-mpi plan --config production_4process --nodes 8 --memory 256 hardware.zero_stage=1

    Exit code 0 where it fits, 1 where it does not.
    """
    import sys

    from ryzen_mpi.cluster.topology import read_memory
    from ryzen_mpi.console import Console
    from ryzen_mpi.model.transformer import parameter_count
    from ryzen_mpi.settings import load_settings
    from ryzen_mpi.training.memory import Part, activations, need
    from ryzen_mpi.training.plan import smallest_change, work
    from ryzen_mpi.units import bytes_text, count_text

    settings = load_settings(name, overrides)
    reckoned, step = need(settings, ranks, nodes, domains), work(settings, ranks, nodes)
    here = read_memory()
    room, reason = (here.available_bytes, here.reason) if memory is None else (int(memory * 2**30), "--memory")

    def row(what: str, part: Part) -> tuple[str, ...]:
        node = part.rank * ranks + part.node
        return what, bytes_text(node // ranks), bytes_text(node // domains), bytes_text(node)

    rows = [row(part.name, part) for part in reckoned.parts]
    for recompute, text in ((False, "kept"), (True, "recomputed")):
        rows.append(row(f"  activations {text}", Part("", activations(settings, recompute))))
    rows.append(row("together", Part("", node=reckoned.steady)))
    rows.append(row("  while saving", Part("", node=reckoned.node)))
    console = Console(leader=True)
    parameters = parameter_count(settings)
    head = f"{count_text(parameters)} parameters, {nodes} nodes of {ranks} ranks, stage {settings.hardware.zero_stage}"
    console.table(head, rows, ("memory", "a rank", "a NUMA domain", "a node"))
    console.table(
        f"a step of {settings.global_batch(ranks * nodes)} samples",
        [
            ("operations", f"{step.flops / 1e12:.4g} TFLOP, {step.flops / 1e12 / ranks / nodes:.4g} a rank"),
            ("for others, inside a node", bytes_text(step.within_bytes)),
            ("sent by a node to others", bytes_text(step.between_bytes)),
        ],
        ("what", "value"),
    )
    if reckoned.node <= room:
        click.echo(f"fits: {bytes_text(reckoned.node)} of {bytes_text(room)} a node ({reason})")
        return
    change = smallest_change(settings, ranks, nodes, room, domains)
    click.echo(f"does not fit: {bytes_text(reckoned.node)} needed, {bytes_text(room)} a node available ({reason})")
    click.echo(
        f"smallest change that fits: {change.text} ({bytes_text(change.need.node)} a node)"
        if change
        else "no stage, accumulation, recomputing or number of nodes makes it fit"
    )
    sys.exit(1)
