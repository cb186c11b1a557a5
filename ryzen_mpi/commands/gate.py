"""`ryzen-mpi gate PHASE`: the verdict on what was recorded. `ryzen-mpi authorise`: which phase may start."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

_SET = click.option("--set", "which", type=click.Choice(["sound", "published"]), default="sound", show_default=True)


@click.command("gate")
@click.argument("name", metavar="PHASE")
@click.option("--results", type=click.Path(path_type=Path), metavar="DIR", help="[default: runs/validation-PHASE]")
@_SET
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON.")
@click.option(
    "--prometheus",
    type=click.Path(path_type=Path),
    metavar="FILE.prom",
    help="Also writes the verdict for Prometheus' textfile collector.",
)
def command(name: str, results: Path | None, which: str, as_json: bool, prometheus: Path | None) -> None:
    """May the phase after PHASE start? Judges recorded results; runs nothing.

    \b
    ryzen-mpi gate 2a && sbatch slurm/phase2b.sh

    Exit code 0 GO, 1 NO-GO, 3 INSUFFICIENT, 4 INVALID, 2 wrong use. `--set published`: by the documents' thresholds.
    """
    from ryzen_mpi.validation.authority import judge_folder
    from ryzen_mpi.validation.gate import EXIT_CODES

    verdict = judge_folder(name, results, which)
    if prometheus is not None:
        from ryzen_mpi.validation.gate_metrics import write_gate_metrics

        write_gate_metrics(verdict, prometheus)
    click.echo(json.dumps(verdict.as_json(), indent=1) if as_json else verdict_text(verdict))
    sys.exit(EXIT_CODES[verdict.verdict])


@click.command("authorise")
@click.option(
    "--results", type=click.Path(path_type=Path), metavar="DIR", help="Holds validation-1, ... [default: runs]"
)
@_SET
def authorise_command(results: Path | None, which: str) -> None:
    """Walk the gates 1 -> 2a -> 2b -> 2c; say which phase may start next.

    Exit code 0 where all are GO; else that of the first gate that is not.
    """
    from ryzen_mpi.validation.authority import walk
    from ryzen_mpi.validation.gate import EXIT_CODES

    walked = walk(results or Path("runs"), which)
    for step in walked.steps:
        click.echo(f"phase {step.phase}: {step.verdict}" + (f"  {step.reason}" if step.reason else ""))
    click.echo(walked.sentence)
    sys.exit(EXIT_CODES[walked.steps[-1].verdict])


def verdict_text(verdict) -> str:
    """The verdict as lines for a person: a row a threshold, then the reasons. Pure."""
    lines = [f"phase {verdict.phase}, {verdict.set} thresholds: {verdict.verdict}"]
    for row in verdict.rows:
        value = "" if row.value is None else f"{row.value:.6g}" + ("" if row.unit == "1" else f" {row.unit}")
        if row.value is not None and row.low is not None and row.high is not None:
            value += f" ({row.low:.4g} to {row.high:.4g}, n={row.n})"
        lines.append(f"  {row.verdict:15}{row.check:22}{row.figure:28}{row.threshold:24}{value}".rstrip())
    lines += [f"- {reason}" for reason in verdict.reasons]
    return "\n".join(lines)
