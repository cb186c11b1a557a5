"""The executive briefing: one page with the verdict, three figures against their targets, trend, risks, next step."""

from __future__ import annotations

from collections.abc import Sequence

from ryzen_mpi.report.content import Advice, Badge, Headline, Report, Section, Shown, Table, by_urgency
from ryzen_mpi.report.phase_report import first_reason, three_of
from ryzen_mpi.report.pictures.verdicts import Point, trend
from ryzen_mpi.report.results_facts import ResultsFacts, Row, Verdict
from ryzen_mpi.report.texts import clean, listed, moment_text, plural

MOST_RISKS = 4
MOST_CHARACTERS = 150
MOST_TARGET_TREND = 8
NEXT = {"1": "2a", "2a": "2b", "2b": "2c"}

_SENTENCES = {
    "GO": "Phase {phase} has met what its gate asks.",
    "NO-GO": "Phase {phase} has missed what its gate asks: {reason}",
    "INSUFFICIENT": "Phase {phase} cannot be judged yet: {reason}",
    "INVALID": "Figures of phase {phase} cannot be true: {reason}",
}


def briefing(folders: Sequence[ResultsFacts], now: float) -> Report:
    """One page on the newest of `folders`; the others are its trend. Pure."""
    ordered = sorted(folders, key=lambda facts: facts.ended_s or 0)
    newest = ordered[-1]
    verdict = newest.verdict
    what, command = next_step(newest)
    when = moment_text(newest.ended_s) if newest.ended_s is not None else "no result yet"
    sections = (
        _trend_section(ordered),
        Section("Risks", () if (risks := find_risks(newest)) else ("None that the results show.",), advice=risks),
        Section("Next step", (what,), commands=(command,) if command else ()),
    )
    return Report(
        kind="briefing",
        title=f"Briefing, phase {newest.phase}",
        subtitle=f"results of {when}" + (f", judged by the {verdict.set} set" if verdict is not None else ""),
        headline=_headline(verdict),
        made=now,
        key=three_of(newest),
        sections=sections,
        sources=tuple(str(facts.path) for facts in ordered),
    )


def _headline(verdict: Verdict | None) -> Headline:
    if verdict is None:
        return Headline("Not judged", "unknown", "No gate has judged these results.")
    reason = _brief(first_reason(verdict)) or "no reason given"
    return Headline(
        verdict.verdict, verdict.tone, _SENTENCES[verdict.verdict].format(phase=verdict.phase, reason=reason)
    )  # fmt: skip


def _brief(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1].rstrip() + "…"


def _trend_section(ordered: Sequence[ResultsFacts]) -> Section:
    """The first figure of the newest verdict over all folders of its phase; what there is of verdicts otherwise."""
    judged = [facts for facts in ordered if facts.verdict is not None and facts.ended_s is not None]
    if not judged:
        return Section("Trend", ("There is no judged result to draw a trend from.",))
    last = judged[-1].verdict
    row = last.row("throughput") or next((row for row in last.rows if row.value is not None), None)
    same = [facts for facts in judged if facts.verdict.phase == last.phase]
    points = [point for facts in same if row is not None and (point := _point(facts, row)) is not None]
    if len(points) > 1:
        bound = row.bound()
        picture = trend("trend", clean(row.name), row.unit, points, bound[1] if bound else None, height=175)
        return Section("Trend", pictures=(picture,))
    if len(judged) > 1:
        rows = tuple(
            (
                f"phase {facts.verdict.phase}",
                moment_text(facts.ended_s),
                Badge(facts.verdict.verdict, facts.verdict.tone),
            )
            for facts in judged[-MOST_TARGET_TREND:]
        )
        return Section("Trend", tables=(Table(("phase", "newest result", "verdict"), rows),))
    return Section("Trend", ("One set of results is no trend: the next will show one.",))


def _point(facts: ResultsFacts, like: Row) -> Point | None:
    for row in facts.verdict.rows:
        if (row.check, row.figure, row.unit) == (like.check, like.figure, like.unit) and row.value is not None:
            return Point(facts.ended_s, row.value, row.low, row.high, facts.path.name)
    return None


def find_risks(facts: ResultsFacts) -> tuple[Advice, ...]:
    """The gravest of what the verdict and the results show, at most MOST_RISKS. Pure."""
    found = [Advice("act", _brief(f"refused: {text}")) for text in facts.damaged]
    for row in facts.verdict.rows if facts.verdict is not None else ():
        if row.tone == "bad":
            what = f"{row.name} is {Shown('', row.value, row.unit).text} ({row.verdict}, threshold {row.threshold})"
            found.append(Advice("act", _brief(what), _brief(row.reason)))
    left = [row for row in facts.verdict.rows if row.tone in ("warn", "unknown")] if facts.verdict is not None else []
    for verdict in dict.fromkeys(row.verdict for row in left):
        names = listed(list(dict.fromkeys(row.name for row in left if row.verdict == verdict)), 4)
        found.append(Advice("watch", _brief(f"{verdict}: {names}")))
    problems = [(r.check, p) for r in facts.newest().values() for p in (*r.findings.impossible, *r.findings.problems)]
    found += [Advice("act", _brief(clean(f"{check}: {problem}"))) for check, problem in problems]
    if not found and facts.verdict is not None:
        found = [Advice("watch", _brief(reason)) for reason in facts.verdict.reasons]
    found = by_urgency(found)
    more = len(found) - MOST_RISKS
    return found if more <= 0 else (*found[: MOST_RISKS - 1], Advice("watch", f"{more + 1} more, in the phase report"))


def next_step(facts: ResultsFacts) -> tuple[str, str]:
    """What to do now, and the command for it, or "". Pure."""
    verdict = facts.verdict
    if verdict is None:
        return "Have the results judged.", f"ryzen-mpi gate {facts.phase}"
    if verdict.verdict == "GO":
        following = NEXT.get(verdict.phase)
        onwards = f"start phase {following}" if following else "put the cluster to its work"
        return f"Authorise and {onwards}.", "ryzen-mpi authorise"
    if verdict.verdict == "INVALID":
        return (
            "Use none of these figures; find how they came about, then measure again into an empty results folder.",
            "",
        )
    if verdict.verdict == "INSUFFICIENT":
        names = list(dict.fromkeys(row.check for row in verdict.rows if row.verdict in ("missing", "too short")))
        what = "Run what is missing or was too short."
    else:
        names = list(dict.fromkeys(row.check for row in verdict.rows if row.tone == "bad"))
        what = f"Mend {listed(names) or 'what the reasons say'}, then run {plural(len(names) or 1, 'check')} again."
    return what, f"ryzen-mpi validate {verdict.phase}" + (f" --only {','.join(names)}" if names else "")
