"""`ryzen-mpi validate PHASE`: runs the checks that a phase is judged by, and keeps what they found."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ryzen_mpi.errors import UserError

if TYPE_CHECKING:
    from ryzen_mpi.validation.runner import Plan

EXIT_FAILED, EXIT_SHORT, EXIT_INTERRUPTED = 1, 3, 130
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, None: 1}


@click.command("validate")
@click.argument("what", required=False, metavar="PHASE|daily|weekly|monthly")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option("--only", metavar="CHECK,...", help="Only these checks, in this order.")
@click.option("--list", "list_all", is_flag=True, help="Name all checks and end.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Results folder. [runs/validation-PHASE]")
@click.option("--phase", "of_phase", metavar="PHASE", help="Whose ranks a check list runs on.  [default: 1]")
@click.option("--ranks", type=click.IntRange(1), metavar="N", help="Ranks instead of the phase's.")
@click.option("--duration", metavar="24h", help="How long the soak and the stability checks run.")
@click.option("--option", "words", multiple=True, metavar="NAME=VALUE", help="For the checks themselves; repeatable.")
@click.option("--set", "which", type=click.Choice(["sound", "published"]), default="sound", show_default=True)
def command(
    what: str | None,
    overrides: tuple[str, ...],
    only: str | None,
    list_all: bool,
    out: Path | None,
    of_phase: str | None,
    ranks: int | None,
    duration: str | None,
    words: tuple[str, ...],
    which: str,
) -> None:
    """Run the checks of a phase, each in processes of its own, and keep what they found.

    \b
    ryzen-mpi validate 1                          # all checks of phase 1, on this machine
    ryzen-mpi validate 2b                         # inside an allocation: on its nodes
    ryzen-mpi validate 1 --only soak --duration 24h   # goes on where it was stopped
    ryzen-mpi validate daily
    ryzen-mpi validate --list

    Exit code 0 where all pass, 1 where some do not, 3 where some are only too short. `ryzen-mpi gate PHASE` judges.
    """
    if list_all:
        return _list()
    if what is None:
        raise UserError("which phase, or which list?", "1, 2a, 2b, 2c, daily, weekly or monthly; --list names checks")
    options = read_options(words)
    if duration is not None:
        options["duration_s"] = seconds(duration)
    again = _again(what, of_phase, out, ranks, duration, words, which, overrides)
    plan, folder = _plan(what, of_phase, only, out, ranks, which, overrides, options, again)
    sys.exit(_run(plan, folder))


def _plan(
    what: str,
    of_phase: str | None,
    only: str | None,
    out: Path | None,
    ranks: int | None,
    which: Any,
    overrides: tuple[str, ...],
    options: dict[str, Any],
    again: tuple[str, ...],
) -> tuple[Plan, Path]:
    from ryzen_mpi.cluster.phases import phase
    from ryzen_mpi.scaling.launch import find_nodes
    from ryzen_mpi.settings import load_settings
    from ryzen_mpi.validation import store
    from ryzen_mpi.validation.lists import read_lists
    from ryzen_mpi.validation.registry import all_checks
    from ryzen_mpi.validation.runner import Plan, choose
    from ryzen_mpi.validation.thresholds import load_rules

    lists = read_lists()
    if what not in lists and of_phase is not None:
        raise UserError(f"--phase {of_phase}: {what} is a phase itself", f"it is for {', '.join(lists)}")
    found = phase(of_phase or "1") if what in lists else phase(what)
    load_settings("scaling_benchmark", overrides)  # refuses a mistyped key before anything runs
    rules, known = load_rules(found.name, which), all_checks()
    names = only.split(",") if only is not None else lists[what].checks if what in lists else list(rules.thresholds)
    checks = choose([name.strip() for name in names if name.strip()], known)
    if only is None:
        checks.sort(key=lambda check: check.limit_s)  # what takes a minute first: it may spare the rest
    folder = out or (Path("runs") / f"validation-{what}" if what in lists else store.default_path(what))
    return Plan(found, rules, checks, ranks or found.ranks, find_nodes(), overrides, options, again), folder


def _run(plan: Plan, folder: Path) -> int:
    from ryzen_mpi.validation import lines, store
    from ryzen_mpi.validation.runner import judge_rows, run_all

    campaign = store.create(folder, plan.phase.name)
    handle = campaign.lock()
    assert handle >= 0
    where = f"{plan.nodes.count} node(s)" + (f" ({', '.join(plan.nodes.names)})" if plan.nodes.names else "")
    click.echo(
        f"phase {plan.phase.name}: {len(plan.checks)} checks, {plan.ranks} ranks on {where}; results in {folder}"
    )
    try:
        results = run_all(plan, campaign, click.echo)
    except KeyboardInterrupt:
        click.echo(f"interrupted; what was done is kept in {folder}")
        return EXIT_INTERRUPTED
    marks = [lines.mark_of(result, judge_rows(result, plan.rules)) for result in results]
    told = ((lines.OK, "passed"), (lines.FAIL, "failed"), (lines.ERROR, "did not work"), (lines.SHORT, "too short"))
    counts = [f"{marks.count(mark)} {word}" for mark, word in (*told, (lines.NONE, "not measurable here"))]
    click.echo(f"{', '.join(counts)}; ryzen-mpi gate {plan.phase.name} --results {folder}")
    if lines.FAIL in marks or lines.ERROR in marks:
        return EXIT_FAILED
    return EXIT_SHORT if lines.SHORT in marks else 0


def _list() -> None:
    from ryzen_mpi.validation.lists import read_lists
    from ryzen_mpi.validation.registry import all_checks

    for check in all_checks().values():
        click.echo(f"{check.name:22}{' '.join(check.ids):10}{check.where:8}{check.about}")
    for name, found in read_lists().items():
        click.echo(f"{name}: {', '.join(found.checks)}")


def seconds(text: str) -> float:
    """Seconds of '90', '90s', '10min', '24h' or '7d'. Raises UserError."""
    match = _DURATION.fullmatch(text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise UserError(f"--duration {text}: no duration", "as in 90s, 10min, 24h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def read_options(words: tuple[str, ...]) -> dict[str, Any]:
    """The options NAME=VALUE of checks; numbers become numbers. Raises UserError."""
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()):
            raise UserError(f"--option {word}: not NAME=VALUE", "as in --option repeats=20; docs/checks/ tells them")
        try:
            options[name] = int(value)
        except ValueError:
            try:
                options[name] = float(value)
            except ValueError:
                options[name] = value
    return options


def _again(
    what: str,
    of_phase: str | None,
    out: Path | None,
    ranks: int | None,
    duration: str | None,
    words: tuple[str, ...],
    which: str,
    overrides: tuple[str, ...],
) -> tuple[str, ...]:
    """The words of this command line that a check has to be given again."""
    pairs = [("--phase", of_phase), ("--out", out), ("--ranks", ranks), ("--duration", duration)]
    pairs += [("--option", word) for word in words] + [("--set", which if which != "sound" else None)]
    return (*(str(word) for pair in pairs if pair[1] is not None for word in pair), *overrides)
