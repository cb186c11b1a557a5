"""Events as a timeline: what happened, to whom, with its evidence. All are pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ryzen_mpi.report.read_events import time_of
from ryzen_mpi.report.texts import clean

MOST_EVENTS = 100
MOST_CHARACTERS = 400
_TONES = {
    **dict.fromkeys(("failure", "failed", "fault", "checkpoint_failed", "node-silent"), "bad"),
    **dict.fromkeys(("stop", "stopped", "warned", "stray-signal", "rollback", "back", "marker"), "warn"),
    **dict.fromkeys(("end", "complete", "checkpoint"), "good"),
}
_OWN = ("failure", "checkpoint_failed")
"""What tells of the very rank that wrote it down."""
_NAMES = {
    "checkpoint_failed": "save failed",
    "stray-signal": "signal",
    "node-silent": "node silent",
    "back": "going back",
    "health_check": "health check",
}


def timeline(
    events: Mapping[str, Sequence[dict[str, Any]]], checkpoints: Sequence[tuple[int, float]] = ()
) -> list[dict[str, Any]]:
    """The newest MOST_EVENTS, newest first.

    Each has "time" (seconds since 1970), "kind" (a word), "tone", "who", "step" (or None), "text" and "evidence".
    The starts of all ranks are one, and so is what a rank says in the words of rank 0.
    """
    rows = []
    said = {_saying(event) for event in events.get("rank-0000", ())}
    for name, log in events.items():
        if name.startswith("rank-") and name != "rank-0000":
            log = [event for event in log if not _said_by_rank_0(event, said)]
        rows += [_row(name, event) for event in log[-2 * MOST_EVENTS :]]
    rows += [
        {"time": when, "kind": "checkpoint", "tone": "good", "who": "", "step": step, "text": "saved", "evidence": ""}
        for step, when in checkpoints
    ]
    return sorted(rows, key=lambda row: row["time"])[: -MOST_EVENTS - 1 : -1]  # of one moment: the last written first


def _saying(event: dict[str, Any]) -> tuple[str, str]:
    return event["event"]["action"], str(event.get("message", ""))


def _said_by_rank_0(event: dict[str, Any], said: set[tuple[str, str]]) -> bool:
    action = event["event"]["action"]
    if action in _OWN:
        return False
    return action in ("start", "end", "stop", "health_check") or _saying(event) in said


def _row(log: str, event: dict[str, Any]) -> dict[str, Any]:
    figures = event.get("ryzen") if isinstance(event.get("ryzen"), dict) else {}
    action = event["event"]["action"]
    kind, tone = _NAMES.get(action, action), _TONES.get(action, "unknown")
    text, evidence = str(event.get("message", "")), ""
    if action == "act":
        kind = str(figures.get("rule", "monitor"))
        tone = "warn" if figures.get("kind") == "warn" else "bad"
        evidence, done = str(figures.get("evidence", "")), figures.get("done")
        did = done if isinstance(done, str) and done else str(figures.get("kind", "")).replace("_", " ")
        text = did if evidence else str(event.get("message", did))
    elif action == "start":
        text = f"{figures.get('ranks', '?')} ranks from step {figures.get('step', '?')}"
    step = figures.get("step")
    return {
        "time": time_of(event),
        "kind": _short(kind, 40),
        "tone": tone,
        "who": _short(_who(log, figures, event), 80),
        "step": step if isinstance(step, int) and not isinstance(step, bool) else None,
        "text": _short(text),
        "evidence": _short(evidence),
    }


def _who(log: str, figures: Mapping[str, Any], event: dict[str, Any]) -> str:
    """The rank and node that an event is about; else whose log it stands in."""
    rank, node = figures.get("rank"), figures.get("node")
    if rank is None and log.startswith("rank-") and event["event"]["action"] in _OWN:
        rank = int(log[5:]) if log[5:].isdigit() else None
        labels = event.get("labels")
        node = node or (labels.get("node") if isinstance(labels, dict) else None)
    about = f"rank {rank}" if isinstance(rank, int) and rank >= 0 else ""
    if not about and log == "supervisor":
        about = "supervisor"
    return f"{about} on {node}" if about and node and about != "supervisor" else about or str(node or "")


def _short(text: str, most: int = MOST_CHARACTERS) -> str:
    text = clean(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def reason_of(events: Mapping[str, Sequence[dict[str, Any]]], name: str) -> str:
    """Why a gauge has no value, as rank 0 recorded it at its newest start; empty where it did not."""
    for event in reversed(events.get("rank-0000", ())):
        figures = event.get("ryzen")
        reasons = figures.get("reasons") if isinstance(figures, dict) else None
        if isinstance(reasons, dict) and isinstance(reasons.get(name), str):
            return _short(reasons[name], 160)
    return ""
