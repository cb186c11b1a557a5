"""Runs in a terminal: the same figures as on the page. In a pipe once, as text."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ryzen_mpi.report.content import Shown
from ryzen_mpi.report.texts import interval_text
from ryzen_mpi.watch.curves import thinned
from ryzen_mpi.watch.finding import Runs
from ryzen_mpi.watch.gates import Gates
from ryzen_mpi.watch.ranks import rank_rows
from ryzen_mpi.watch.told import timeline
from ryzen_mpi.watch.view import Look, Watched, moments

PAUSE_S = 1.0
WIDTH_OF_A_PIPE = 120
_STYLES = {"good": "green", "warn": "yellow", "bad": "bold red", "unknown": "default", "plain": "default"}
_BLOCKS = "▁▂▃▄▅▆▇█"
MOST_RANKS, MOST_EVENTS, BAR = 16, 6, 40


def show(runs: Runs, gates: Gates) -> None:
    """Shows the runs until Ctrl-C; once where standard output is no terminal."""
    console = Console()
    if not console.is_terminal:
        Console(width=WIDTH_OF_A_PIPE).print(picture(runs, gates))
        return
    try:
        with Live(picture(runs, gates), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(PAUSE_S)
                live.update(picture(runs, gates), refresh=True)
    except KeyboardInterrupt:
        return


def picture(runs: Runs, gates: Gates) -> RenderableType:
    """All runs as a table, and the first that is not over (else the first) in full."""
    now, looks = time.time(), list[tuple[Watched, Look]]()
    for run in runs.all():
        with run.source.lock:
            looks.append((run, run.look(now)))
    if not looks:
        return Text(f"no run in {runs.folder} yet")
    chosen = next((pair for pair in looks if not pair[1].over), looks[0])
    parts: list[RenderableType] = [_overview([look for _, look in looks], now)] if len(looks) > 1 else []
    parts.append(_one(*chosen, now))
    for gate in gates.look():
        reason = f"  {gate['reasons'][0]}" if gate["reasons"] else ""
        parts.append(
            Text.assemble(
                f"phase {gate['phase']} ", (gate["verdict"], _STYLES[gate["tone"]]), f"  {gate['met']}{reason}"
            )
        )
    return Group(*parts)


def _overview(looks: Sequence[Look], now: float) -> Table:
    table = Table(expand=True, header_style="dim", box=None, padding=(0, 2, 0, 0))
    for name in ("run", "", "steps", "loss", "samples/s"):
        table.add_column(name, justify="left" if name in ("run", "") else "right", overflow="fold")
    for look in looks:
        table.add_row(
            Text(look.name),
            Text(look.headline.verdict, _STYLES[look.headline.tone]),
            Text(moments(look, now)["progress"].removeprefix("step ")),
            Text(_number(look.figures["loss"])),
            Text(_number(look.figures["rate"])),
        )
    return table


def _one(run: Watched, look: Look, now: float) -> Panel:
    told = moments(look, now)
    head = Text.assemble((look.headline.verdict, _STYLES[look.headline.tone]), f"  {look.headline.text}")
    line = "  ".join(filter(None, [told["progress"], told["left"], "" if look.over else told["ago"]]))
    parts: list[RenderableType] = [head, Text(line)]
    if look.total:
        parts.append(Padding(ProgressBar(look.total, min(look.step, look.total)), 0))  # which ends its line
    parts += [_figures(look), *_losses(run)]
    source = run.source
    if rows := rank_rows(look.newest, source.sample):
        parts.append(_ranks(rows))
    if events := timeline(source.events, look.whole.checkpoints)[:MOST_EVENTS]:
        parts.append(_events(events))
    for one in look.advice:
        parts.append(Text.assemble((one.level, "bold"), f"  {one.what}: {one.why}"))
    parts += [Text(f"missing: {text}", "dim") for text in look.missing]
    return Panel(Group(*parts), title=Text(look.name), title_align="left", border_style="dim")


def _figures(look: Look) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column()
    table.add_column(style="dim", overflow="fold")
    for figure in (*look.figures.values(), *look.totals):
        badge = Text(figure.badge.text, _STYLES[figure.badge.tone]) if figure.badge else Text()
        spread = interval_text(figure.low, figure.high, None, figure.confidence)
        note = ", ".join(filter(None, [figure.target, figure.note, spread]))
        table.add_row(Text(figure.name), Text(_number(figure, True)), badge, Text(note))
    table.add_row(Text("expected"), Text(""), Text(""), Text(look.expected.why))
    return table


def _number(figure: Shown, unit: bool = False) -> str:
    if figure.value is None:
        return "-"
    return figure.text if unit else figure.number


def _losses(run: Watched) -> list[Text]:
    """The training loss as a line of blocks, from the first step to the newest."""
    losses = [loss for loss in thinned(run.source.table["loss"].tolist(), 80) if loss - loss == 0]
    if len(losses) < 2:
        return []
    low, high = min(losses), max(losses)
    height = (high - low) or 1.0
    blocks = "".join(_BLOCKS[min(7, int(8 * (loss - low) / height))] for loss in losses)
    return [Text.assemble(("loss  ", "dim"), (blocks, "blue"), (f"  {high:.4g} to {low:.4g}", "dim"))]


def _ranks(rows: list[dict]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), title=None)
    for name in ("rank", "where", "computing █  waiting ░", "computing", "waiting", "memory", "temperature", ""):
        table.add_column(name, justify="left" if name.startswith(("where", "computing █")) else "right")
    slowest = sorted(rows, key=lambda row: -(row["computation_s"] or 0))[:MOST_RANKS]
    longest = max(((row["computation_s"] or 0) + (row["communication_s"] or 0) for row in rows), default=0) or 1.0
    for row in rows if len(rows) <= MOST_RANKS else slowest:
        full = round(BAR * (row["computation_s"] or 0) / longest)
        light = round(BAR * (row["communication_s"] or 0) / longest)
        bar = Text.assemble(("█" * full, "blue"), ("░" * light, "yellow"))
        cells = [row[key] for key in ("computation", "communication", "memory", "temperature")]
        table.add_row(str(row["rank"]), Text(row["host"]), bar, *map(Text, cells), Text(row["slower"], "bold red"))
    return table


def _events(events: list[dict]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for event in events:
        when = time.strftime("%H:%M:%S", time.gmtime(event["time"]))
        step = f"step {event['step']:,}" if event["step"] is not None else ""
        words = ", ".join(filter(None, [event["text"], event["evidence"]]))
        table.add_row(
            Text(when, "dim"), Text(event["kind"], _STYLES[event["tone"]]), Text(event["who"]), Text(step), Text(words)
        )
    return table
