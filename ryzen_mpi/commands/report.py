"""`ryzen-mpi report`: reports of runs, scaling, phases and periods, as a page, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ryzen_mpi.report.content import Report

_PATH = click.Path(path_type=Path)
_SET = click.option(
    "--set", "which", type=click.Choice(["sound", "published"]), default="sound", show_default=True, help="Thresholds."
)


class _Forms(click.ParamType):
    name = "html,md,json"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        known = ("html", "md", "json")
        words = [word.strip() for word in str(value).split(",")]
        for word in words:
            if word not in known:
                self.fail(f"{word!r} is no form of a report; there are: {', '.join(known)}", param, ctx)
        return tuple(dict.fromkeys(words))


def _options(command: Callable) -> Callable:
    """What every kind of report takes."""
    out = click.option("--out", type=_PATH, metavar="DIR|FILE", help="Where to.  [default: reports/KIND-NAME]")
    forms = click.option(
        "--format", "forms", type=_Forms(), default="html,md,json", show_default=True, help="Forms, by commas."
    )
    return out(forms(command))


@click.group("report")
def command() -> None:
    """Say what was measured: a page with pictures, Markdown and JSON with the same figures.

    \b
    ryzen-mpi report run runs/20260301-120000-default
    ryzen-mpi report scaling scaling.json --out scaling.html --format html
    ryzen-mpi report phase runs/validation-2a --out report
    ryzen-mpi report weekly --runs runs
    ryzen-mpi report briefing runs/validation-*
    """


@command.command("run", short_help="Run directories.")
@click.argument("runs", type=_PATH, nargs=-1, required=True, metavar="RUN...")
@_options
def run(runs: tuple[Path, ...], out: Path | None, forms: tuple[str, ...]) -> None:
    """Report each RUN, a run directory; also while it trains."""
    import time

    from ryzen_mpi.errors import UserError
    from ryzen_mpi.report.read_run import read_run
    from ryzen_mpi.report.run_report import run_report

    names = [path.resolve().name for path in runs]
    if len(runs) > 1 and out is not None and out.suffix.lstrip(".") in ("html", "md", "json"):
        raise UserError(f"--out {out} is one file, and there are {len(runs)} runs", "give a folder: --out DIR")
    if len(set(names)) < len(names):
        raise UserError("two of these runs have the same name", "report them apart, each with an --out of its own")
    for path, name in zip(runs, names, strict=True):
        report = run_report(read_run(path), time.time())
        _write(report, name, out / name if out is not None and len(runs) > 1 else out, forms)


@command.command("scaling", short_help="What `ryzen-mpi scale` measured.")
@click.argument("file", type=_PATH)
@_options
def scaling(file: Path, out: Path | None, forms: tuple[str, ...]) -> None:
    """Report the measurement in FILE, a JSON file of `ryzen-mpi scale`."""
    import time

    from ryzen_mpi.report.scaling_facts import read_scaling
    from ryzen_mpi.report.scaling_report import scaling_report

    _write(scaling_report(read_scaling(file), time.time()), file.stem, out, forms)


@command.command("phase", short_help="What `ryzen-mpi validate` found, with the verdict.")
@click.argument("results", type=_PATH)
@_SET
@_options
def phase(results: Path, which: str, out: Path | None, forms: tuple[str, ...]) -> None:
    """Report RESULTS, a folder of `ryzen-mpi validate`, with the verdict of its gate."""
    import time

    from ryzen_mpi.report.phase_report import phase_report
    from ryzen_mpi.report.results_facts import by_the_gate, read_results

    facts = read_results(results, by_the_gate(which))
    _write(phase_report(facts, time.time()), results.resolve().name, out, forms)


def _periodic(period: str, back: str) -> click.Command:
    @click.option("--runs", type=_PATH, default="runs", show_default=True, metavar="DIR", help="Looked through.")
    @_options
    def periodic(runs: Path, out: Path | None, forms: tuple[str, ...]) -> None:
        import time

        from ryzen_mpi.report.period_report import period_report

        now = time.time()
        name = time.strftime("%Y-%m-%d", time.gmtime(now))
        _write(period_report(period, runs, now), name, out, forms)

    periodic.__doc__ = f"The {period} check list over the runs and results below --runs of the last {back}."
    return command.command(period, short_help=f"Check list of the last {back}.")(periodic)


daily, weekly, monthly = _periodic("daily", "day"), _periodic("weekly", "7 days"), _periodic("monthly", "30 days")


@command.command("briefing", short_help="One page: verdict, figures, risks, next step.")
@click.argument("results", type=_PATH, nargs=-1, required=True, metavar="RESULTS...")
@_SET
@_options
def briefing(results: tuple[Path, ...], which: str, out: Path | None, forms: tuple[str, ...]) -> None:
    """One page on the newest of RESULTS, folders of `ryzen-mpi validate`; the others are its trend."""
    import time

    from ryzen_mpi.report.briefing import briefing as brief
    from ryzen_mpi.report.results_facts import by_the_gate, read_results

    report = brief([read_results(path, by_the_gate(which)) for path in results], time.time())
    _write(report, results[-1].resolve().name, out, forms)


def _write(report: Report, name: str, out: Path | None, forms: tuple[str, ...]) -> None:
    """Writes the report and prints the paths."""
    from ryzen_mpi.report.forms import write_report

    for path in write_report(report, out or Path("reports") / f"{report.kind}-{name}", forms):
        click.echo(path)
