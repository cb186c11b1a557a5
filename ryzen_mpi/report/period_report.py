"""The daily, weekly and monthly report: a check list over the runs and results of a period, and trends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ryzen_mpi.errors import UserError
from ryzen_mpi.figures import median
from ryzen_mpi.report.advice import advise
from ryzen_mpi.report.check_list import PERIODS, Found, Records, check_list, of_state
from ryzen_mpi.report.content import Advice, Badge, Headline, Report, Section, Shown, Table, Tone, by_urgency
from ryzen_mpi.report.pictures.verdicts import Point, trend
from ryzen_mpi.report.read_run import is_run, read_run
from ryzen_mpi.report.results_facts import Judge, ResultsFacts, is_results, read_results
from ryzen_mpi.report.run_facts import RunFacts
from ryzen_mpi.report.run_measures import communication_share, throughput
from ryzen_mpi.report.run_report import missing_section, run_headline, shown
from ryzen_mpi.report.texts import clean, moment_text, plural

DAY_S = 86400.0
DEPTH = 4
TONES: dict[str, Tone] = {"done": "good", "trouble": "bad", "not run": "warn"}


def period_report(period: str, folder: Path, now: float, judge: Judge | None = None) -> Report:
    """The list of `period` over everything below `folder` that shows a sign of life within it.

    `judge`: see read_results. Raises UserError where there is no such folder.
    """
    if not Path(folder).is_dir():
        raise UserError(f"no directory at {folder}", "give the directory that holds the runs (--runs DIR)")
    since, unread = now - PERIODS[period] * DAY_S, list[str]()
    runs, results = _found(Path(folder), (since, now), judge, unread)
    records = Records(runs, results, _checks(period), now)
    found = check_list(period, records)
    advice = _advice(runs)
    sections = (
        Section("Check list", (_ABOUT,), tables=(_list_table(found),)),
        _trend_section(runs),
        Section("Runs", tables=_run_table(runs, now)),
        Section("Results", tables=_result_table(results)),
        Section("Advice", advice=advice),
        missing_section(tuple(unread)),
    )
    return Report(
        kind=period,
        title=f"{period.capitalize()} report",
        subtitle=f"{moment_text(since)} to {moment_text(now)}",
        headline=period_headline(found),
        made=now,
        key=tuple(_key(found, runs, results)),
        sections=tuple(section for section in sections if not section.is_empty),
        sources=tuple(str(facts.path) for facts in (*runs, *results)),
    )


_ABOUT = "What was not run is not in order. A check that is done has left a result without a problem; whether its "
_ABOUT += "figures are good enough is the gate's to say."


def period_headline(found: list[Found]) -> Headline:
    """Trouble before what was not run, and that before all done."""
    done, trouble, left = (len(list(of_state(found, state))) for state in ("done", "trouble", "not run"))
    text = f"{done} of {plural(len(found), 'item')} done, {trouble} in trouble, {left} not run"
    if trouble:
        return Headline("Trouble", "bad", text)
    return Headline("Incomplete", "warn", text) if left else Headline("All done", "good", text)


def _checks(period: str) -> tuple[tuple[str, str], ...]:
    """The checks of the period's list in operation, with what each is about."""
    from ryzen_mpi.validation.lists import read_lists
    from ryzen_mpi.validation.registry import all_checks

    lists, known = read_lists(), all_checks()
    names = lists[period].checks if period in lists else ()
    return tuple((name, known[name].about if name in known else "") for name in names)


def _found(folder: Path, span: tuple[float, float], judge: Judge | None, unread: list[str]) -> tuple[tuple, tuple]:
    """Runs and results folders with a sign of life within `span`, oldest first; those that tell none are named."""
    since, now = span
    runs, results = [], []
    for path in _walk(folder, DEPTH):
        try:
            if is_results(path):
                results.append(read_results(path, judge))
            else:
                runs.append(read_run(path))
        except UserError as error:
            unread.append(clean(f"{path}: {error.message}"))
    for name, without in (
        ("run", [r for r in runs if r.sign_s is None]),
        ("result", [r for r in results if not r.ended_s]),
    ):
        unread += [f"{one.path}: no sign of when this {name} was made" for one in without]
    near = [run for run in runs if run.sign_s is not None and since <= run.sign_s <= now + DAY_S]
    judged = [one for one in results if one.ended_s and since <= one.ended_s <= now + DAY_S]
    return (
        tuple(sorted(near, key=lambda run: run.sign_s)),
        tuple(sorted(judged, key=lambda one: one.ended_s)),
    )


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Run directories and results folders from `folder` down; what lies inside one is not looked at."""
    if is_results(folder) or is_run(folder):
        yield folder
    elif depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield from _walk(path, depth - 1)


def _list_table(found: list[Found]) -> Table:
    rows = tuple((clean(item.item), Badge(item.state, TONES[item.state]), clean(item.text)) for item in found)
    return Table(("item", "state", "found"), rows)


def _key(found: list[Found], runs: tuple[RunFacts, ...], results: tuple[ResultsFacts, ...]) -> Iterator[Shown]:
    done = sum(item.state == "done" for item in found)
    yield Shown("items done", done, "", target=f"{len(found)}")
    newest = next((run for run in reversed(runs) if throughput(run) is not None), None)
    if newest is None:
        yield Shown("throughput", None, "samples/s", note="nothing was trained in the period")
    else:
        yield shown("throughput", throughput(newest), "samples/s", "", note=clean(f"newest run, {newest.name}"))
    broken = sum(not restart.planned for run in runs for restart in run.restarts)
    said = "in the runs of the period" if runs else "nothing was trained in the period"
    yield Shown("restarts after a fault", broken if runs else None, "", note=said)
    yield Shown("checks", sum(len(one.results) for one in results), "", note=f"in {plural(len(results), 'folder')}")


def _trend_section(runs: tuple[RunFacts, ...]) -> Section:
    """Throughput a day and run, of the runs with the same settings and ranks as most of the period's."""
    groups: dict[str, list[RunFacts]] = {}
    for run in runs:
        if run.measured() is not None:
            same = {key: run.settings.get(key) for key in ("model", "training", "hardware", "distributed")}
            groups.setdefault(json.dumps([same, int(run.steps.ranks[-1])], sort_keys=True, default=str), []).append(run)
    if not groups:
        return Section("Trend")
    most = max(groups.values(), key=len)
    points = sorted((point for run in most for point in _days(run)), key=lambda point: point.moment_s)
    if len(points) < 2:
        return Section("Trend", ("One day of one run is no trend.",))
    title = f"Throughput of {plural(len(most), 'run')} with the same settings"
    return Section("Trend", pictures=(trend("trend", title, "samples/s", points),))


def _days(run: RunFacts) -> Iterator[Point]:
    """The median of each day of a run with its interval."""
    steps = run.measured()
    rates, days = steps.rates(), np.floor(steps.wall_time_s / DAY_S)
    for day in np.unique(days[np.isfinite(rates)]):
        rows = (days == day) & np.isfinite(rates)
        figure = median(rates[rows])
        yield Point(float(np.median(steps.wall_time_s[rows])), figure.value, figure.low, figure.high, run.name)


def _run_table(runs: tuple[RunFacts, ...], now: float) -> tuple[Table, ...]:
    rows = []
    for run in reversed(runs):
        head, steps = run_headline(run, now), run.steps
        rows.append(
            (
                run.name,
                Badge(head.verdict.lower(), head.tone),
                str(0 if steps is None else int(steps.step[-1])),
                shown("throughput", throughput(run), "samples/s", ""),
                shown("communication", communication_share(run), "%", "", 100),
                str(len(run.restarts)),
                moment_text(run.sign_s),
            )
        )
    columns = ("run", "state", "steps", "throughput", "communication", "restarts", "last sign")
    return (Table(columns, tuple(rows)),) if rows else ()


def _result_table(results: tuple[ResultsFacts, ...]) -> tuple[Table, ...]:
    rows = []
    for facts in reversed(results):
        verdict = facts.verdict
        word = Badge(verdict.verdict, verdict.tone) if verdict is not None else Badge("not judged", "unknown")
        rows.append(
            (
                facts.path.name,
                facts.phase,
                str(len(facts.results)),
                str(len(facts.damaged)),
                word,
                moment_text(facts.ended_s),
            )
        )
    columns = ("folder", "phase", "results", "refused", "verdict", "newest")
    return (Table(columns, tuple(rows)),) if rows else ()


def _advice(runs: tuple[RunFacts, ...]) -> tuple[Advice, ...]:
    """What the rules say of each run, the run's name before it."""
    found = [Advice(one.level, f"{run.name}: {one.what}", one.why, one.do) for run in runs for one in advise(run)]
    return by_urgency(found)
