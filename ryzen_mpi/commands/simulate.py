"""`ryzen-mpi simulate`: what more ranks than there are would do, from a calibration measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ryzen_mpi.console import Console
    from ryzen_mpi.scaling.calibration import Calibration


@click.command("simulate")
@click.option("--ranks", default="8,12,16,32,...,4096", show_default=True, metavar="P,P,...", help="... doubles.")
@click.option("--calibrate", is_flag=True, help="Measure first: launches of 1 and 2 ranks, some minutes.")
@click.option("--calibration", "path", default="calibration.json", show_default=True, metavar="FILE", help="Kept here.")
@click.option("--launches", default=3, show_default=True, type=click.IntRange(1), help="Of each kind to calibrate.")
@click.option("--rounds", default=6, show_default=True, type=click.IntRange(1), help="Turns of each side in a launch.")
@click.option("--config", default="scaling_benchmark", show_default=True, metavar="NAME|FILE", help="Profile or file.")
@click.option("--nodes-of", default=4, show_default=True, type=click.IntRange(1), help="Ranks of a node.")
@click.option("--cores", type=click.IntRange(1), help="Cores of a node.  [as calibrated]")
@click.option("--network", metavar="LATENCY_US,GBIT", help="Between nodes.  [as calibrated, else assumed]")
@click.option("--mtbf-hours", type=click.FloatRange(0, min_open=True), help="Between failures of one node.")
@click.option("--failures-of", metavar="RUN_DIR", help="The same, from the account of a supervised run.")
@click.option("--compression", metavar="NAME", help="Of gradients between nodes: distributed.compression.")
@click.option("--measured", metavar="REPORT.json", help="Of `scale`: what the documents' formula is fitted to.")
@click.option("--out", metavar="FILE.json", help="Keep everything as JSON.")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
def command(ranks: str, path: str, out: str | None, overrides: tuple[str, ...], **words: Any) -> None:
    """Predict throughput, efficiency, communication, memory, saving and the best strategy, with 95 % bands.

    \b
    ryzen-mpi simulate --calibrate --ranks 8,16,...,4096
    ryzen-mpi simulate --ranks 64,256 --nodes-of 4 --cores 16 --network 20,100 --mtbf-hours 5000
    """
    import json
    from pathlib import Path

    from ryzen_mpi.bench.options import check_parent
    from ryzen_mpi.console import Console
    from ryzen_mpi.errors import UserError
    from ryzen_mpi.rundir import write_atomic
    from ryzen_mpi.scaling.outlook import Question, answer, parse_network, parse_ranks
    from ryzen_mpi.settings import load_settings

    if words["compression"]:
        overrides = (*overrides, f"distributed.compression={words['compression']}")
    settings = load_settings(words["config"], overrides)
    if settings.training.virtual_ranks > 1:
        raise UserError("training.virtual_ranks plays ranks in one process: nothing of it scales", "leave it out")
    if words["failures_of"] and words["mtbf_hours"]:
        raise UserError("--failures-of and --mtbf-hours exclude one another", "give one of them")
    asked = Question(
        parse_ranks(ranks), words["nodes_of"], words["cores"], parse_network(words["network"]), words["mtbf_hours"]
    )
    for option, target in (("--out", out), ("--calibration", path)):
        if target is not None:
            check_parent(target, option)
    console = Console(leader=True)
    calibration = _calibration(Path(path).expanduser(), overrides, words, console)
    found = answer(calibration, settings, asked, _report(words["measured"]))
    _show(console, found)
    if out is not None:
        write_atomic(Path(out).expanduser(), json.dumps(found, indent=1) + "\n")
        console.line(f"kept in {out}")


def _calibration(path: Any, overrides: tuple[str, ...], words: dict[str, Any], console: Console) -> Calibration:
    """Measured now and kept in `path`, or read from there. Raises UserError."""
    from dataclasses import replace
    from pathlib import Path

    from ryzen_mpi.scaling.calibrate import calibrate
    from ryzen_mpi.scaling.calibration import read
    from ryzen_mpi.scaling.launch import find_nodes
    from ryzen_mpi.scaling.reliability import failures_of

    if words["calibrate"]:
        calibrate(
            words["config"],
            overrides,
            path.absolute().parent,
            per_node=words["nodes_of"],
            launches=words["launches"],
            rounds=words["rounds"],
            nodes=find_nodes(),
            tell=console.line,
        ).write(path)
    found = read(path)
    if words["failures_of"]:
        run = Path(words["failures_of"]).expanduser()
        found = replace(found, failures=failures_of(run))
    return found


def _report(path: str | None) -> Any:
    """The scaling report in a file, or None where none was named. Raises UserError."""
    import json
    from pathlib import Path

    from ryzen_mpi.errors import UserError

    if path is None:
        return None
    try:
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--measured {path} can't be read: {error}", "the JSON of `ryzen-mpi scale`") from None


def _show(console: Console, found: dict[str, Any]) -> None:
    from ryzen_mpi.units import bytes_text, duration_text

    rows = []
    for row in found["rows"]:
        kept = row["saving"]
        rows.append(
            (
                f"{row['ranks']} on {row['nodes']}",
                _band(row["throughput"], 1, ",.0f" if row["throughput"]["value"] >= 100 else ".3g"),
                _band(row["efficiency"], 100, ".3g"),
                _band(row["communication_share"], 100, ".3g"),
                f"{bytes_text(row['node_bytes'])}{'' if row['fits'] else ' (does not fit)'}",
                f"{duration_text(kept['interval_s'])}, {100 * kept['kept']:.1f} % kept" if kept else "-",
                _best(row),
            )
        )
    columns = ("ranks on nodes", "samples/s", "efficiency %", "communication %", "memory a node", "save every", "best")
    console.table("predicted, with 95 % bands", rows, columns)
    cluster, failures = found["cluster"], found["failures"]
    cores = f"{cluster['cores']} cores a node, {cluster['threads']} thread(s) a rank"
    console.line(f"{cores}; between nodes: {found['network']}")
    if len(found["by_threads"]) > 1:
        rates = ", ".join(f"{rate:.4g} samples/s with {count} thread(s)" for count, rate in found["by_threads"].items())
        console.line(f"one rank alone: {rates}")
    for note in dict.fromkeys(note for row in found["rows"] for note in row["notes"]):
        console.line(f"{note}: {cluster['per_node']} ranks a node have {cluster['cores']} cores")
    why = f"a node fails every {failures['mtbf_node_s'] / 3600:.4g} h ({failures['reason']})" if failures else ""
    console.line(why or "nothing is known of failures: --mtbf-hours or --failures-of tells how often to save")
    if found["documents"]:
        console.line("the documents' Throughput(P) = Base P (1 + gain), fitted to what was measured:")
        for line in found["documents"]["misses"]:
            console.line(f"  {line}")
    for text in found["warnings"]:
        console.warn(text)


def _best(row: dict[str, Any]) -> str:
    """The quickest strategy that can be had, and what another algorithm between nodes would bring to it."""
    best = row["best"]
    if best is None:
        return "none fits"
    same = [one for one in row["strategies"] if (one["stage"], one["compression"]) == (best["stage"], "none")]
    quickest = min(same, key=lambda one: one["step_s"])
    gained = 1 - quickest["step_s"] / best["step_s"]
    words = f"stage {best['stage']}, {best['compression'] if best['compression'] != 'none' else 'uncompressed'}"
    return f"{words}; {quickest['algorithm']} -{100 * gained:.0f} %" if gained > 0.01 else words


def _band(figure: dict[str, Any], times: float, form: str) -> str:
    value, low, high = (format(times * figure[key], form) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
