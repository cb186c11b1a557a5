"""`ryzen-mpi submit`: the batch files of slurm/, rendered from the phase table and handed to sbatch."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import click

from ryzen_mpi.cluster.phases import Phase
from ryzen_mpi.errors import UserError

CHECKOUT = Path(__file__).parents[2]
SBATCH_TIMEOUT_S = 60.0

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,@+-]*")
_TIME = re.compile(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)")

TEMPLATE = """\
#!/bin/bash
# Phase {name}: {ranks} ranks on {nodes} {plural}, for its soak of {soak_hours} h.
#   sbatch slurm/{job_name}.sh [--config NAME|FILE] [--run-dir DIR] [SECTION.KEY=VALUE]...
{directives}
# --exclusive and --mem=0: all cores and memory; every rank is bound to the cores of one NUMA domain, {cpus} or more.
# --signal: {warning_s} s before the limit the job saves; --requeue: then it goes on where it was.
# --no-kill: when a node is lost the job keeps the others, and the supervisor goes on there. (Should it be the first
# node, where the supervisor runs, watch_first_node.sh has the job queued again.)

# Slurm runs a copy of this file in a spool folder, and knows where the file itself lies.
here=$(dirname -- "$0")
if [[ ! -e $here/body.sh && -n ${{SLURM_JOB_ID-}} ]]; then
    command=$(scontrol show job "$SLURM_JOB_ID" | sed -n '/^ *Command=/ {{ s///p; q }}')
    here=$(dirname -- "${{command%%.sh *}}") # the arguments stand behind it, and its path may hold spaces
    [[ $here == /* ]] || here=$SLURM_SUBMIT_DIR/$here
fi
exec bash "$here/body.sh" {name} {nodes} {ranks_per_node} "$@"
"""


@dataclass(frozen=True)
class Choices:
    """What a site or a person sets for one submission; None leaves it to the cluster, or to the phase."""

    partition: str | None = None
    account: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        for option, value in (("--partition", self.partition), ("--account", self.account)):
            if value is not None and not _WORD.fullmatch(value):
                raise UserError(f"{option} {value!r} is no name Slurm could know", "letters, digits and _ . , @ + -")
        if self.time is not None and seconds(self.time) < 60:
            raise UserError(f"--time {self.time} is too short: Slurm counts minutes")

    def directives(self, phase: Phase) -> dict[str, str]:
        """The sbatch options these choices add to those of `phase`, or replace there."""
        chosen = {"partition": self.partition, "account": self.account, "time": self.time}
        if self.time is not None:
            # A warning that came before the first step would have the job saved and requeued for ever.
            chosen["signal"] = f"B:USR1@{min(phase.warning_s, seconds(self.time) // 4)}"
        return {name: value for name, value in chosen.items() if value is not None}


def seconds(time: str) -> int:
    """`[D-]HH:MM:SS` in seconds. Raises UserError."""
    matched = _TIME.fullmatch(time)
    if matched is None:
        raise UserError(f"--time {time!r} is no time limit", "write HH:MM:SS or D-HH:MM:SS, for example 02:30:00")
    days, hours, minutes, rest = (int(part or 0) for part in matched.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def time_text(duration_s: int) -> str:
    """The inverse of `seconds`, with days where there are any."""
    minutes, rest = divmod(duration_s, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hours:02d}:{minutes:02d}:{rest:02d}"


def render(phase: Phase, choices: Choices | None = None) -> str:
    """The batch file of `phase`; without choices it is the one in slurm/, byte for byte."""
    choices = choices or Choices()
    options: dict[str, str | None] = {
        "job-name": phase.job_name,
        "nodes": str(phase.nodes),
        "ntasks-per-node": str(phase.ranks_per_node),
        "cpus-per-task": str(phase.cpus_per_rank),
        "exclusive": None,
        "mem": "0",
        "time": time_text(phase.limit_s),
        "signal": f"B:USR1@{phase.warning_s}",
        "requeue": None,
        "no-kill": None,
        "open-mode": "append",
        "output": "%x-%j.out",
    } | choices.directives(phase)
    lines = (f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in options.items())
    return TEMPLATE.format(
        name=phase.name,
        job_name=phase.job_name,
        nodes=phase.nodes,
        plural="node" if phase.nodes == 1 else "nodes",
        ranks=phase.ranks,
        ranks_per_node=phase.ranks_per_node,
        cpus=phase.cpus_per_rank,
        soak_hours=phase.soak_s // 3600,
        warning_s=str(options["signal"]).partition("@")[2],
        directives="\n".join(lines),
    )


def sbatch_words(phase: Phase, choices: Choices, arguments: tuple[str, ...]) -> list[str]:
    """The command that submits the file in slurm/: as the choices go on the line, Slurm knows where that file lies.

    Raises UserError where this is no checkout.
    """
    file = CHECKOUT / f"slurm/{phase.job_name}.sh"
    if not file.is_file() or not (CHECKOUT / "env/run").is_file():
        raise UserError(f"there is no {file}", "submit from a checkout: env/run ryzen-mpi submit ...")
    options = [f"--{name}={value}" for name, value in choices.directives(phase).items()]
    return ["sbatch", *options, str(file), *arguments]


def submit(words: list[str]) -> str:
    """Runs sbatch and returns the job id. Raises UserError."""
    if shutil.which("sbatch") is None:
        raise UserError("this machine has no Slurm: there is no sbatch", "--dry-run shows the batch file")
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", *words[1:]], capture_output=True, text=True, timeout=SBATCH_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"sbatch did not answer in {SBATCH_TIMEOUT_S:.0f} s", "is Slurm up? ask sinfo") from None
    except OSError as error:
        raise UserError(f"sbatch can't be run: {error.strerror}") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(f"Slurm did not take the job: {said}", "--dry-run shows the batch file")
    return done.stdout.strip().partition(";")[0]


@click.command("submit")
@click.option("--dry-run", is_flag=True, help="Show the batch file and submit nothing.")
@click.option("--partition", metavar="NAME", help="Slurm partition.  [default: the cluster's]")
@click.option("--account", metavar="NAME", help="Slurm account.  [default: the cluster's]")
@click.option("--time", metavar="[D-]HH:MM:SS", help="Time limit.  [default: the phase's]")
@click.option("--config", metavar="NAME|FILE", help="Profile or YAML file to train with.  [default: training's]")
@click.option("--run-dir", metavar="DIR", help="Where the run is kept.  [default: runs/<phase>-<job>]")
@click.argument("name", metavar="PHASE")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
def command(
    dry_run: bool,
    partition: str | None,
    account: str | None,
    time: str | None,
    config: str | None,
    run_dir: str | None,
    name: str,
    overrides: tuple[str, ...],
) -> None:
    """Submit a phase to Slurm: phase1, phase2a, phase2b or phase2c (1, 2, 3 or 4 nodes, 4 ranks each).

    \b
    ryzen-mpi submit phase2b --dry-run
    ryzen-mpi submit phase2b --partition long --time 12:00:00 training.max_steps=5000
    """
    from ryzen_mpi.cluster.phases import phase
    from ryzen_mpi.settings import DEFAULT_PROFILE, load_settings

    row, choices = phase(name), Choices(partition, account, time)
    load_settings(config or DEFAULT_PROFILE, overrides)  # a wrong key is told now, not after hours in the queue
    given = {"--config": config, "--run-dir": run_dir}
    options = [word for option, value in given.items() if value is not None for word in (option, value)]
    if dry_run:
        click.echo(render(row, choices), nl=False)
        return
    words = sbatch_words(row, choices, (*options, *overrides))
    job = submit(words)
    kept = Path(run_dir) if run_dir else Path("runs") / f"{row.job_name}-{job}"
    click.echo(f"{shlex.join(words)}\njob {job}")
    click.echo(f"output         {Path.cwd() / f'{row.job_name}-{job}.out'}")
    click.echo(f"run directory  {Path.cwd() / kept.expanduser()}")
