"""What the page is told, as JSON values: everything it shows is made here, and it is shown as text."""

from __future__ import annotations

import time
from typing import Any

from ryzen_mpi import __version__
from ryzen_mpi.report.texts import moment_text, plural
from ryzen_mpi.units import duration_text
from ryzen_mpi.watch.curves import Since, curves, thinned
from ryzen_mpi.watch.finding import Runs
from ryzen_mpi.watch.gates import Gates
from ryzen_mpi.watch.ranks import RANK_STEPS, communication_rows, nodes, rank_rows
from ryzen_mpi.watch.told import timeline
from ryzen_mpi.watch.view import Look, Watched, figure_json, moments

MOST_EVALUATIONS = 500
WINDOWS = (0, 1000, 100)
"""Newest steps that a page may ask to see alone; 0: all."""


def overview(runs: Runs, gates: Gates) -> dict[str, Any]:
    """All runs in short, and the gates."""
    now = time.time()
    return {
        "version": __version__,
        "folder": str(runs.folder or ""),
        "runs": [_short(run, now) for run in runs.all()],
        "gates": gates.look(),
    }


def _short(run: Watched, now: float) -> dict[str, Any]:
    with run.source.lock:
        look = run.look(now)
    rate, loss = look.figures["rate"], look.figures["loss"]
    return {
        "id": run.identity,
        "name": look.name,
        "state": {"text": look.headline.verdict, "tone": look.headline.tone},
        "step": look.step,
        "total": look.total,
        "loss": loss.number if loss.value is not None else "",
        "rate": f"{rate.number} samples/s" if rate.value is not None else "",
        **moments(look, now),
    }


def one_run(run: Watched, since: str = "", window: int = 0) -> dict[str, Any]:
    """One run: its curves from where the page left off, everything else whole."""
    now = time.time()
    with run.source.lock:
        look = run.look(now)
        source = run.source
        checkpoints = look.whole.checkpoints
        return {
            "id": run.identity,
            "name": look.name,
            "path": str(look.whole.path),
            "state": {
                "text": look.headline.verdict,
                "tone": look.headline.tone,
                "sentence": _first_upper(look.headline.text),
            },
            "over": look.over,
            "step": look.step,
            "total": look.total,
            **moments(look, now),
            "about": _about(look),
            "cards": {"steps": _steps_card(look, now)}
            | {key: figure_json(figure) for key, figure in look.figures.items()}
            | {"checkpoint": _checkpoint_card(checkpoints, now)},
            "totals": [figure_json(figure) for figure in look.totals],
            "expected": {"rate": look.expected.rate, "why": look.expected.why},
            "curves": curves(source.table, source.generation, Since.parse(since), window),
            "evaluations": thinned(
                [[step, *map(_finite, values)] for step, values in sorted(source.evaluations.items())],
                MOST_EVALUATIONS,
            ),
            "ranks": rank_rows(look.newest, source.sample),
            "rank_steps": min(RANK_STEPS, len(source.table)),
            "nodes": nodes(look.newest, source.sample),
            "no_temperature": run.why_not("temperature_c") or "no sensor told the run anything",
            "communication": communication_rows(source.sample),
            "sampled": moment_text(source.sample["wall_time_s"]) if source.sample else "",
            "events": timeline(source.events, checkpoints),
            "checkpoints": [
                {"step": step, "when": moment_text(when), "ago": duration_text(max(0.0, now - when))}
                for step, when in reversed(checkpoints[-20:])
            ],
            "advice": [{"level": one.level, "what": one.what, "why": one.why, "do": one.do} for one in look.advice],
            "missing": list(look.missing),
        }


def _about(look: Look) -> str:
    """'4 ranks on node1, batch 64 in bfloat16'."""
    steps, places = look.newest.steps, look.whole.places
    parts = []
    if steps is not None:
        parts.append(plural(int(steps.ranks[-1]), "rank"))
    hosts = sorted({place.host for place in places})
    if hosts:
        parts.append(f"on {hosts[0]}" if len(hosts) == 1 else f"on {len(hosts)} nodes")
    text = " ".join(parts)
    batch = steps.batch[-1] if steps is not None else float("nan")
    return text + (f", {plural(int(batch), 'sample')} a step" if batch == batch else "")


_CARD = {"value": None, "number": "", "unit": "", "spread": "", "target": "", "note": "", "badge": None}


def _steps_card(look: Look, now: float) -> dict[str, Any]:
    pace = f"{duration_text(look.pace_s)} from step to step" if look.pace_s is not None else ""
    card = _CARD | {"name": "steps", "value": look.step, "number": f"{look.step:,}", "note": pace}
    return card | {"unit": f"of {look.total:,}" if look.total else "", "target": moments(look, now)["left"]}


def _checkpoint_card(checkpoints: tuple[tuple[int, float], ...], now: float) -> dict[str, Any]:
    card = _CARD | {"name": "checkpoint"}
    if not checkpoints:
        return card | {"note": "none on disk yet"}
    step, when = checkpoints[-1]
    return card | {
        "value": step,
        "number": f"step {step:,}",
        "note": f"{duration_text(max(0.0, now - when))} old, {len(checkpoints)} on disk",
    }


def _finite(value: float) -> float | None:
    return value if value - value == 0 else None


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
