"""The report of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ryzen_mpi.cluster.topology import cpulist_text
from ryzen_mpi.figures import Figure
from ryzen_mpi.report.advice import COMMUNICATION_ACT, COMMUNICATION_WATCH, UNBALANCED, advise
from ryzen_mpi.report.content import Badge, Headline, Report, Section, Shown, Table
from ryzen_mpi.report.pictures.over_time import run_over_time
from ryzen_mpi.report.pictures.ranks import breakdown
from ryzen_mpi.report.run_facts import RunFacts
from ryzen_mpi.report.run_measures import communication_share, newest_world, rank_times, slow_ranks, throughput
from ryzen_mpi.report.texts import clean, moment_text, number_text, plural
from ryzen_mpi.units import bytes_text, duration_text

ALIVE_S = 120.0
"""A run whose last sign is younger may still be under way; or twenty of its steps, where they are long."""


def run_report(facts: RunFacts, now: float) -> Report:
    """The report of the run that `facts` tell of, at the time `now`. Pure."""
    picture = run_over_time(facts)
    sections = (
        Section("Over time", pictures=(picture,) if picture else (), tables=_restart_table(facts)),
        Section("Advice", text=() if (advice := advise(facts)) else ("No rule found anything to say.",), advice=advice),
        _ranks_section(facts),
        Section("What was trained", tables=_settings_table(facts)),
        Section("Failures recorded", text=facts.troubles),
        missing_section(facts.missing),
    )
    return Report(
        kind="run",
        title=f"Run {facts.name}",
        subtitle=_subtitle(facts),
        headline=run_headline(facts, now),
        made=now,
        key=tuple(_key(facts)),
        sections=tuple(section for section in sections if not section.is_empty),
        sources=facts.sources,
    )


def missing_section(missing: tuple[str, ...]) -> Section:
    """What a report could not use, said rather than left out."""
    return Section("Missing", text=missing)


def shown(name: str, figure: Figure | None, unit: str, absent: str, scale: float = 1.0, **more: Any) -> Shown:
    """`figure`, times `scale`, as it is shown; `absent` says why there is none."""
    if figure is None or not math.isfinite(figure.value):
        return Shown(name, None, unit, **more | {"note": absent})
    scaled = figure.mapped(lambda value: scale * value)
    return Shown(
        name, scaled.value, unit, scaled.low, scaled.high, figure.n, confidence=figure.confidence, **more
    )  # fmt: skip


def run_headline(facts: RunFacts, now: float) -> Headline:
    """How the run stands. Pure."""
    step = int(facts.steps.step[-1]) if facts.steps is not None else 0
    ends = f"after {plural(step, 'step')}"
    broken = sum(not restart.planned for restart in facts.restarts)
    survived = f", {plural(broken, 'fault')} survived" if broken else ""
    if facts.complete is not None:
        return Headline("Complete", "good", f"{plural(step or _whole(facts.complete, 'steps'), 'step')}{survived}")
    if facts.failed is not None:
        return Headline("Given up", "bad", clean(facts.failed.get("why", "the supervisor gave up")))
    if facts.stopped is not None:
        return Headline("Stopped", "warn", f"{facts.stopped} {ends}{survived}; it can go on from its checkpoint")
    if facts.steps is None:
        return Headline("Nothing trained", "unknown", "no step was recorded")
    patience = max(ALIVE_S, 20 * float(np.median(facts.steps.step_s)))
    if facts.sign_s is not None and now - facts.sign_s < patience:
        return Headline("Under way", "unknown", f"{ends}{survived}")
    last = moment_text(facts.sign_s) if facts.sign_s is not None else "an unknown time"
    return Headline("Broke off", "bad", f"{ends}; last sign of life {last}, and it was neither stopped nor complete")


def _whole(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) else 0


def _subtitle(facts: RunFacts) -> str:
    hosts = sorted({place.host for place in facts.places})
    where = f"on {len(hosts)} hosts" if len(hosts) > 3 else f"on {', '.join(hosts)}" if hosts else ""
    if facts.steps is None:
        return where or "nothing recorded"
    ranks, first, last = facts.steps.ranks, facts.steps.wall_time_s[0], facts.steps.wall_time_s[-1]
    counts = f"{plural(int(ranks[-1]), 'rank')} {where}".strip()
    return f"{counts}, {moment_text(first)} to {moment_text(last)}"


def _key(facts: RunFacts) -> Iterator[Shown]:
    """The figures beside the headline."""
    absent = "no step was recorded"
    yield shown("throughput", throughput(facts), "samples/s", absent, note="median of the measured steps")
    share = communication_share(facts)
    badge = None
    if share is not None:
        high = share.value > COMMUNICATION_ACT
        badge = Badge("high", "bad" if high else "warn") if share.value > COMMUNICATION_WATCH else Badge("low", "good")
    yield shown("communication", share, "% of a step", absent, 100, note="blocked in collectives", badge=badge)
    if facts.held_out:
        step, loss, _ = facts.held_out[-1]
        yield Shown("held-out loss", loss, "nat/token", note=f"after step {step}")
    elif facts.steps is not None:
        yield Shown("training loss", float(facts.steps.loss[-1]), "nat/token", note="of the last step")
    ettr, broken = (facts.account or {}).get("ettr"), sum(not restart.planned for restart in facts.restarts)
    if isinstance(ettr, (int, float)):
        yield Shown("productive time", 100 * ettr, "%", note=f"of the time supervised; {plural(broken, 'fault')}")
    elif not facts.places:
        yield Shown("restarts", None, note="no start was recorded")
    else:
        tone = Badge("none", "good") if not facts.restarts else Badge("see below", "warn")
        yield Shown("restarts", len(facts.restarts), "", note=f"{broken} after a fault", badge=tone)


def _restart_table(facts: RunFacts) -> tuple[Table, ...]:
    rows = tuple(
        (
            str(number),
            moment_text(restart.wall_time_s),
            "never trained" if restart.step is None else f"step {restart.step}",
            Badge("planned", "plain") if restart.planned else Badge("fault", "bad"),
            restart.why,
        )
        for number, restart in enumerate(facts.restarts, 1)
    )
    return (Table(("restart", "when", "went on from", "kind", "why"), rows, "Restarts"),) if rows else ()


def _ranks_section(facts: RunFacts) -> Section:
    """Time, balance, memory and place of every rank."""
    times = rank_times(facts)
    if times is None or facts.steps is None:
        return Section("Ranks")
    steps = newest_world(facts.steps)
    rss = np.nanmax(np.nan_to_num(steps.rank_rss_bytes), axis=0)
    slow = {one.rank: one.more for one in slow_ranks(facts)}
    places = {place.rank: place for place in facts.places}
    rows = []
    for rank in range(len(times.computation_s)):
        place, more = places.get(rank), slow.get(rank)
        cores = cpulist_text(place.cpus) if place and place.cpus else "not recorded"
        even = Badge("alone", "plain") if more is None else _evenness(more)
        rows.append(
            (
                f"rank {rank}",
                place.host if place else "not recorded",
                cores,
                Shown("computation", 1e3 * float(times.computation_s[rank]), "ms"),
                Shown("communication", 1e3 * float(times.communication_s[rank]), "ms"),
                shown("against the others", more, "%", "there are no others", 100),
                even,
                bytes_text(float(rss[rank])),
            )
        )
    columns = ("rank", "host", "cores", "computation", "communication", "against the others", "", "memory")
    world = f"Means over {plural(len(newest_world(facts.measured())), 'step')}, without those after a start. "
    text = f"{world}Other is what lies between the steps: data, evaluation, saving."
    return Section("Ranks", (text,), pictures=(breakdown(times),), tables=(Table(columns, tuple(rows)),))


def _evenness(more: Figure) -> Badge:
    if more.low > UNBALANCED:
        return Badge("slow", "bad")
    return Badge("fast", "warn") if more.high < -UNBALANCED else Badge("even", "good")


_SETTINGS = {
    "model": ("num_layers", "embedding_dim", "num_heads", "feed_forward_dim", "seq_length", "vocab_size"),
    "training": ("batch_size", "gradient_accumulation_steps", "global_batch", "learning_rate", "save_interval"),
    "hardware": ("dtype", "zero_stage", "gradient_checkpoint"),
    "distributed": ("backend", "compression"),
    "data": ("source",),
}


def _settings_table(facts: RunFacts) -> tuple[Table, ...]:
    rows = [
        (f"{section}.{key}", clean(facts.settings[section][key]))
        for section, keys in _SETTINGS.items()
        for key in keys
        if facts.settings.get(section, {}).get(key) is not None
    ]
    done = facts.complete or {}
    if isinstance(done.get("seconds"), (int, float)):
        rows.append(("time", duration_text(done["seconds"])))
    if isinstance(done.get("samples"), int):
        rows.append(("samples trained", number_text(done["samples"])))
    return (Table(("setting", "value"), tuple(rows)),) if rows else ()
