"""What is shown of a run: one set of figures and words for the page and the terminal. All but `Watched` is pure."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ryzen_mpi.report import advice
from ryzen_mpi.report.content import Advice, Headline, Shown, by_urgency
from ryzen_mpi.report.read_events import Told, told_of
from ryzen_mpi.report.run_facts import WARMUP_STEPS, RunFacts
from ryzen_mpi.report.run_report import run_headline
from ryzen_mpi.report.texts import clean, interval_text, plural
from ryzen_mpi.units import duration_text
from ryzen_mpi.watch import measures
from ryzen_mpi.watch.ranks import RANK_STEPS
from ryzen_mpi.watch.source import Source

NEWEST_RULES = (advice.slow_rank, advice.shared_cores, advice.communication)
"""Of the report's rules those that look at what each rank does: the newest steps are enough for them."""
WHOLE_RULES = (advice.checkpoints, advice.restarts)
LATELY_STEPS = 2000
"""Steps that the newest measured ones are looked for in."""
SETTLED_S = 3.0
"""A process that is no more and wrote something more recently has another number here, as in a container."""


@dataclass(frozen=True)
class Look:
    """A run at one moment.

    Attributes:
        name: of the run.
        headline: how it stands.
        over: whether nothing more is to come, as far as is known.
        whole: facts with all steps, without what each rank did.
        newest: facts with the newest steps, and what each rank did.
        expected: what its rate is held against.
        figures: the cards, by key.
        totals: of the whole run, as its report has them.
        step, total: steps done and to do; total None where that is not known.
        pace_s: wall time from step to step, of the newest.
        left_s: until its end, where that can be told.
        sign_s: newest sign of life, seconds since 1970.
        advice: what stands out.
        missing: what could not be used, in words.
    """

    name: str
    headline: Headline
    over: bool
    whole: RunFacts
    newest: RunFacts
    expected: measures.Expected
    figures: dict[str, Shown]
    totals: tuple[Shown, Shown]
    step: int
    total: int | None
    pace_s: float | None
    left_s: float | None
    sign_s: float | None
    advice: tuple[Advice, ...]
    missing: tuple[str, ...]


class Watched:
    """A run and what was made of its newest look. `identity` names it in requests; it is no part of any path."""

    def __init__(self, path: Path, identity: str, expect: float | None = None) -> None:
        self.path, self.identity, self._expect = path, identity, expect
        self.source = Source(path)
        self._totals: tuple[int, int, tuple[Shown, Shown]] = (-1, -1, _NOTHING)
        self._told: tuple[int, Told] = (-1, Told())
        self._expected: tuple[tuple, measures.Expected] = ((), measures.Expected(None, ""))

    def look(self, now: float | None = None) -> Look:
        """Reads what is new, and says how the run stands. Callers hold `source.lock`."""
        now = time.time() if now is None else now
        source = self.source
        source.look()
        whole = self._facts()
        newest = replace(whole, steps=measures.steps_of(source.table, newest=RANK_STEPS + WARMUP_STEPS))
        expected = self._expectation(whole)
        headline = self._headline(newest, now)
        total = _total(whole)
        step = source.table.last_step
        pace = measures.seconds_a_step(newest.steps)
        running = headline.verdict == "Under way"
        return Look(
            name=clean(self.path.resolve().name),
            headline=headline,
            over=headline.verdict in ("Complete", "Given up", "Stopped", "Broke off", "Gone"),
            whole=whole,
            newest=newest,
            expected=expected,
            figures=self._figures(whole, expected),
            totals=self._whole_run(whole),
            step=step,
            total=total,
            pace_s=pace,
            left_s=pace * max(0, total - step) if running and pace and total else None,
            sign_s=whole.sign_s,
            advice=by_urgency(
                (
                    *(one for rule in NEWEST_RULES for one in rule(newest)),
                    *(one for rule in WHOLE_RULES for one in rule(whole)),
                )
            ),
            missing=tuple(self._missing()),
        )

    def _facts(self) -> RunFacts:
        source = self.source
        if self._told[0] != source.heard:
            self._told = source.heard, told_of(dict(sorted(source.events.items())))
        told = self._told[1]
        return RunFacts(
            path=Path(clean(self.path.resolve())),
            settings=_sections(source.settings.read()),
            steps=measures.steps_of(source.table),
            complete=source.complete.read(),
            failed=source.failed.read(),
            account=source.account.read(),
            stopped=told.stopped,
            restarts=told.restarts,
            places=told.places,
            checkpoints=tuple(source.checkpoints()),
            troubles=told.troubles,
            sign_s=source.sign_s(),
        )

    def _expectation(self, whole: RunFacts) -> measures.Expected:
        """Made once the steps it rests on are there, and again where others take their place."""
        ranks = int(whole.steps.ranks[-1]) if whole.steps is not None else 0
        of = self.source.generation, ranks, len(whole.restarts)
        if self._expected[0] != of or self._expected[1].n < measures.FIRST_STEPS:
            self._expected = of, measures.expectation(whole, self._expect)
        return self._expected[1]

    def _headline(self, facts: RunFacts, now: float) -> Headline:
        """As the report's, and what can only be seen while looking on."""
        if not self.source.exists:
            return Headline("Gone", "unknown", "its directory is not there any more; these are the last figures seen")
        headline = run_headline(facts, now)
        if headline.verdict not in ("Under way", "Nothing trained"):
            return headline
        sign = facts.sign_s or 0.0
        if (gone := self.source.gone_process()) and now - sign > SETTLED_S:
            after = f"after {plural(self.source.table.last_step, 'step')}"
            return Headline("Broke off", "bad", f"{after}; {clean(gone)} is gone, and the run was not stopped")
        if headline.verdict == "Nothing trained" and now - sign < 120:
            return Headline("Starting", "unknown", "no step yet")
        if headline.verdict == "Under way":  # how many steps is said beside it anyway
            return replace(headline, tone="good", text=headline.text.partition(", ")[2])
        return headline

    def _figures(self, whole: RunFacts, expected: measures.Expected) -> dict[str, Shown]:
        source = self.source
        lately = replace(whole, steps=measures.steps_of(source.table, LATELY_STEPS, ranked=False))
        why = self.why_not("temperature_c") or "no sensor told the run anything"
        interval = (whole.settings.get("training") or {}).get("eval_interval")
        return {
            "loss": measures.loss_figure(whole),
            "held_out": measures.held_out_figure(source.evaluations, interval),
            "rate": measures.rate_figure(lately, expected),
            "share": measures.share_figure(lately),
            "memory": measures.memory_figure(source.table),
            "temperature": measures.temperature_figure(source.sample, why),
        }

    def why_not(self, gauge: str) -> str:
        """Why a gauge has no value."""
        from ryzen_mpi.watch.told import reason_of

        if not self.source.sample:
            return "nothing was sampled yet"
        return reason_of(self.source.events, gauge)

    def _whole_run(self, whole: RunFacts) -> tuple[Shown, Shown]:
        """Made anew when the run is a hundredth longer: sorting a million steps takes a while."""
        rows, generation = len(self.source.table), self.source.generation
        at, of, known = self._totals
        if generation != of or rows < at or rows > at + at // 100 or rows < 20_000 and rows != at:
            known = measures.whole_run(whole)
            self._totals = rows, generation, known
        return known

    def _missing(self):
        source = self.source
        if source.metrics.problem and source.exists:
            stand_in = ": the steps are taken from the event log" if len(source.table) else ""
            yield f"{clean(source.metrics.problem)}{stand_in}"
        if source.exists and source.settings.read() is None:
            yield "no config.yaml that can be read: what is trained is not known"
        if source.behind:
            yield "the event log is long and still being read"


_NOTHING = (Shown("samples/s, whole run", None), Shown("communication, whole run", None))


def _sections(content: dict[str, Any] | None) -> dict[str, Any]:
    return content if content and all(isinstance(part, dict) for part in content.values()) else {}


def _total(facts: RunFacts) -> int | None:
    """Steps of the whole run, where its summary, its newest start or its settings say so."""
    for value in (
        (facts.complete or {}).get("steps"),
        facts.places[0].total_steps if facts.places else None,
        (facts.settings.get("training") or {}).get("max_steps"),
    ):
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def figure_json(one: Shown) -> dict[str, Any]:
    """A figure as a page shows it."""
    value = float(one.value) if one.value is not None and np.isfinite(one.value) else None
    return {
        "name": one.name,
        "value": value,
        "number": one.number if value is not None else "",
        "unit": one.unit,
        "spread": interval_text(one.low, one.high, None, one.confidence) if value is not None else "",
        "target": one.target,
        "note": one.note,
        "badge": {"text": one.badge.text, "tone": one.badge.tone} if one.badge else None,
    }


def moments(look: Look, now: float) -> dict[str, str]:
    """How far it is, and how long ago it last gave a sign of life, in words."""
    of = f" of {look.total:,}" if look.total else ""
    left = f"about {duration_text(look.left_s)} left" if look.left_s is not None else ""
    ago = duration_text(max(0.0, now - look.sign_s)) if look.sign_s else ""
    return {"progress": f"step {look.step:,}{of}", "left": left, "ago": f"last sign of life {ago} ago" if ago else ""}
