"""The report of a scaling measurement."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ryzen_mpi.report.content import Badge, Headline, Report, Section, Shown, Table
from ryzen_mpi.report.pictures import scaling as draw
from ryzen_mpi.report.pictures.ranks import breakdown
from ryzen_mpi.report.run_measures import RankTimes
from ryzen_mpi.report.run_report import shown
from ryzen_mpi.report.scaling_advice import advise
from ryzen_mpi.report.scaling_facts import FACTORS, Launch, Point, ScalingFacts, Series
from ryzen_mpi.report.texts import clean, moment_text, number_text, plural
from ryzen_mpi.units import duration_text


def scaling_report(facts: ScalingFacts, now: float) -> Report:
    """The report of the measurement that `facts` tell of. Pure."""
    advice = advise(facts)
    sections = [
        Section("What cannot be true", facts.problems),
        Section("What is missing", facts.insufficient),
        Section("Throughput", pictures=(draw.throughput(facts),) if facts.series else ()),
        *(_series_section(one) for one in facts.series),
        Section("Advice", () if advice else ("No rule found anything to say.",), advice=advice),
        _breakdown_section(facts),
        _loss_section(facts),
        _launch_section(facts),
        _machine_section(facts),
    ]
    return Report(
        kind="scaling",
        title=f"Scaling of {facts.profile or 'nothing'}",
        subtitle=f"{plural(len(facts.launches), 'launch', 'launches')}, {moment_text(facts.made)}",
        headline=scaling_headline(facts),
        made=now,
        key=tuple(_key(facts)),
        sections=tuple(section for section in sections if not section.is_empty),
        sources=(clean(facts.path),),
    )


def scaling_headline(facts: ScalingFacts) -> Headline:
    """The verdict: what cannot be true comes before what is missing, and that before what was reached."""
    for word, tone, holds in (
        ("INVALID", "bad", bool(facts.problems)),
        ("INSUFFICIENT", "warn", bool(facts.insufficient) or not facts.series),
        ("OVERSUBSCRIBED", "warn", facts.oversubscribed),
    ):
        if holds:
            return Headline(word, tone, facts.headline.removeprefix(f"{word}: "))
    return Headline("Measured", "good", facts.headline)


def _key(facts: ScalingFacts) -> Iterator[Shown]:
    """The figures at the most ranks of the first series."""
    if not facts.series:
        return
    series, absent = facts.series[0], "not in the report"
    last = series.points[-1]
    on = f"{series.mode}, on {plural(last.ranks, 'rank')}" + (" that share cores" if last.oversubscribed else "")
    yield shown("throughput", last.throughput, "samples/s", absent, note=on)
    yield shown("speed-up", last.speedup, "times", absent, note=f"over {plural(series.points[0].ranks, 'rank')}")
    yield shown("efficiency", last.efficiency, "%", absent, 100, note=on, badge=_judged(last))
    yield shown("communication", last.communication_share, "% of the time", absent, 100, note=on)


def _judged(point: Point) -> Badge:
    """An efficiency that is surely above 1 needs its explanation."""
    if point.efficiency.low > 1:
        return Badge("explained", "warn") if point.explained else Badge("cannot be", "bad")
    return Badge("shared cores", "warn") if point.oversubscribed else Badge("possible", "good")


def _series_section(series: Series) -> Section:
    known = {n: text for n, text in FACTORS.items() if any(point.factors[n] is not None for point in series.points)}
    rows = tuple(
        (
            str(point.ranks),
            str(point.nodes),
            shown("throughput", point.throughput, "samples/s", ""),
            shown("speed-up", point.speedup, "", ""),
            shown("efficiency", point.efficiency, "%", "", 100),
            *(shown(text, point.factors[name], "%", "not in the report", 100) for name, text in known.items()),
            _judged(point),
        )
        for point in series.points
    )
    columns = ("ranks", "nodes", "throughput", "speed-up", "efficiency", *known.values(), "")
    held = (
        "The global batch, the samples and the threads a rank are the same at every number of ranks."
        if series.mode == "strong"
        else "The batch grows with the ranks; the threads a rank are the same."
    )
    text = [f"{held} Efficiency is the product of load balance, communication efficiency and computation scaling."]
    text += [f"{plural(point.ranks, 'rank')}: {point.explained}" for point in series.points if point.explained]
    title = f"{series.mode.capitalize()} scaling"
    return Section(title, tuple(text), pictures=(draw.efficiency(series),), tables=(Table(columns, rows),))


def _breakdown_section(facts: ScalingFacts) -> Section:
    """Where the time of each rank went in the launches of most ranks, means over them."""
    most = max((launch.ranks for launch in facts.launches), default=0)
    mode = facts.series[0].mode if facts.series else ""
    chosen = [one for one in facts.launches if one.ranks == most and one.mode == mode and _is_whole(one)]
    if not chosen:
        return Section("Where the time goes")
    computation, communication, whole = (
        np.mean([getattr(one, name) for one in chosen], axis=0)
        for name in ("rank_computation_s", "rank_communication_s", "rank_s")
    )
    times = RankTimes(computation, communication, np.maximum(0, whole - computation - communication))
    text = f"Means over {plural(len(chosen), 'launch', 'launches')} on {plural(most, 'rank')}, {mode}."
    return Section("Where the time goes", (text,), pictures=(breakdown(times, what="of the measured part"),))


def _is_whole(launch: Launch) -> bool:
    return len(launch.rank_s) == len(launch.rank_computation_s) == len(launch.rank_communication_s) == launch.ranks


MOST_LOSSES = 6


def _loss_section(facts: ScalingFacts) -> Section:
    """The losses of the same steps at each number of ranks: the same samples have to give the same."""
    count = min((len(losses) for losses in facts.losses.values()), default=0)
    if not count:
        return Section("Losses")
    steps = sorted({round(place) for place in np.linspace(0, count - 1, min(count, MOST_LOSSES))})
    rows = tuple(
        (ranks, *(f"{losses[step]:.6f}" for step in steps)) for ranks, losses in sorted(facts.losses.items(), key=_size)
    )
    table = Table(("ranks", *(f"step {step + 1}" for step in steps)), rows)
    if facts.largest_difference is None or facts.tolerance is None:
        return Section("Losses", tables=(table,))
    same = facts.largest_difference <= facts.tolerance
    badge = Badge("within rounding", "good") if same else Badge("different", "bad")
    note, target = "relative, over the first steps", f"<= {number_text(facts.tolerance)}"
    figure = Shown("largest difference", facts.largest_difference, "", target=target, badge=badge, note=note)
    return Section("Losses", figures=(figure,), tables=(table,))


def _size(item: tuple[str, object]) -> tuple[int, str]:
    return int(item[0]) if item[0].isdigit() else 0, item[0]


def _joined(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_joined(item)}" for name, item in value.items())
    if isinstance(value, list):
        items = [*value[:3], "…", *value[-3:]] if len(value) > 7 else value
        return ", ".join(_joined(item) for item in items)
    return number_text(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _launch_section(facts: ScalingFacts) -> Section:
    rows = tuple(
        (
            str(one.number),
            one.mode,
            str(one.ranks),
            str(one.nodes),
            ", ".join(str(count) for count in sorted(set(one.threads))),
            number_text(one.samples),
            duration_text(one.measured_s),
            "not known" if one.waited_share is None else f"{100 * one.waited_share:.2g} %",
        )
        for one in sorted(facts.launches, key=lambda one: one.number)
    )
    columns = ("launch", "mode", "ranks", "nodes", "threads a rank", "samples", "measured", "waited for a core")
    text = ["In the order they were started: sizes are interleaved, so that a drift of the machine meets all of them."]
    text += [f"{plural(facts.broken, 'launch', 'launches')} not shown: not whole"] if facts.broken else []
    return Section("Launches", tuple(text), tables=(Table(columns, rows),)) if rows else Section("Launches")


def _machine_section(facts: ScalingFacts) -> Section:
    rows = tuple((clean(name), clean(_joined(value))) for name, value in facts.machine.items())
    return Section("Machine", tables=(Table(("what", "value"), rows),) if rows else ())
