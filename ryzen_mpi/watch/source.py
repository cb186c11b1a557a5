"""One run directory as it is watched: what of it is in memory, and how a look brings that up to date."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ryzen_mpi.report.read_events import RECORDS, event_of
from ryzen_mpi.report.read_run import checkpoints_of
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.supervisor.files import Files
from ryzen_mpi.watch.documents import Document, holder_is_gone
from ryzen_mpi.watch.follow import PLAIN, RANKED, Followed, News
from ryzen_mpi.watch.logs import Tail
from ryzen_mpi.watch.table import KEPT_ROWS, Table

PAUSE_S = 0.4
"""Looks that follow one another more closely find what the one before found."""
OTHERS_S = 3.0
"""Between two looks at the logs of the ranks other than 0, which say little."""
MOST_EVENTS = 5000
LEADER, SUPERVISOR = "rank-0000", "supervisor"
_STEP, _IS_STEP = re.compile(rb'"step":\s*(\d+)'), re.compile(rb'"action":\s*"step"')


class Source:
    """A run directory. `look` reads what is new; nothing is ever written, locked or waited for.

    The rows of metrics.h5 come in batches; those after them are taken from rank 0's event log, where they stand at
    once, until the file has them too.

    Attributes:
        table: the steps.
        generation: changes whenever rows that were there are no more (a rollback, a resume).
        evaluations: step -> held-out loss and accuracy.
        sample: the newest sample's values.
        events: of each log by its name, without the records of steps; the newest MOST_EVENTS.
        heard: how many events there have been.
    """

    def __init__(self, path: Path) -> None:
        self.run, self.lock = RunDirectory(path), threading.Lock()
        self.table, self.generation, self.heard = Table(PLAIN, RANKED), 0, 0
        self.evaluations: dict[int, tuple[float, float]] = {}
        self.sample: dict[str, Any] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        files = Files(self.run)
        self.settings = Document(self.run.config, yaml.safe_load)
        self.complete, self.failed, self.account = map(Document, (self.run.complete, files.failed, files.summary))
        self.metrics = Followed(self.run.metrics)
        self._tails: dict[str, Tail] = {}
        self._live: list[dict[str, Any]] = []  # steps that metrics.h5 does not have yet
        self._looked = self._others = float("-inf")

    @property
    def exists(self) -> bool:
        return self.run.path.is_dir()

    @property
    def behind(self) -> bool:
        """Whether there is more in the logs than was read so far."""
        return any(tail.behind for tail in self._tails.values())

    def look(self) -> None:
        """Brings everything up to date. Callers hold `lock`."""
        now = time.monotonic()
        if now - self._looked < PAUSE_S or not self.exists:  # of a directory that is gone the last figures stay
            return
        if (news := self.metrics.look()) is not None:
            self._take(news)
        self._read_logs(now)
        self._looked = time.monotonic()

    def sign_s(self) -> float | None:
        """When anything of it was written last, seconds since 1970."""
        times = []
        for path in (self.run.metrics, *(tail.path for tail in self._tails.values())):
            with contextlib.suppress(OSError):
                times.append(path.stat().st_mtime)
        return max(times, default=None)

    def gone_process(self) -> str | None:
        """The process that trained last, where it was of this machine and is no more, and no supervisor is at work."""
        gone = holder_is_gone(self.run.path / ".lock")
        supervisor = Files(self.run).folder / ".lock"
        return gone if gone and (not supervisor.exists() or holder_is_gone(supervisor)) else None

    def checkpoints(self) -> list[tuple[int, float]]:
        """Step and time of each on disk, oldest step first."""
        try:
            return checkpoints_of(self.run)
        except OSError:  # the folder went while it was listed
            return []

    # -- steps --------------------------------------------------------------------------------------------------------

    def _take(self, news: News) -> None:
        """Rows of metrics.h5."""
        at, shown = self._committed, self.table["wall_time_s"][self._committed :].copy()
        self.table.cut(self._committed)
        before, went_back = self.evaluations, news.kept < self._committed
        if went_back:
            self.table.cut(news.kept)
            self.generation += 1
            self._live.clear()
        self.table.extend(news.plain, news.ranked)
        self._committed = len(self.table)
        self._committed_step = self.table.last_step
        if not self._committed and LEADER in self._tails:  # the file is no more: the log has to stand in
            self._tails[LEADER].again()
            self.events.pop(LEADER, None)
        self.evaluations = {step: (loss, accuracy) for step, loss, accuracy in news.evaluations} | {
            step: values for step, values in before.items() if step > self._committed_step and not went_back
        }
        if news.sample and news.sample["wall_time_s"] >= self.sample.get("wall_time_s", 0.0):
            self.sample = dict(news.sample)
        self._live = [row for row in self._live if row["step"] > self._committed_step]
        self._extend(self._live)
        now = self.table["wall_time_s"][at : at + len(shown)]
        if not went_back and not np.array_equal(now, shown):  # other rows than the log's: those were trained again
            self.generation += 1

    _committed = _committed_step = 0

    def _record(self, line: bytes) -> dict[str, Any] | None:
        """The figures of a step that metrics.h5 has not, or None; evaluations and samples are kept at once."""
        found = _STEP.search(line)
        if found is None:
            return None
        step, is_step = int(found[1]), _IS_STEP.search(line) is not None
        if is_step and self._live and step <= self._live[-1]["step"]:
            self._go_back(step)
        if step <= self._committed_step and (is_step or self._committed_step):
            return None
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            event = json.loads(line)
            figures = _restored(event["ryzen"])
            action = event["event"]["action"]
            if action == "evaluation":
                self.evaluations[step] = float(figures["held_out_loss"]), float(figures["held_out_accuracy"])
            elif action == "sample":
                self.sample = figures
            elif action == "step":
                _row(figures)  # whether it is whole
                return figures
        return None

    def _go_back(self, step: int) -> None:
        """Step `step` is trained again: what followed it in the log is another time's."""
        self._live = [row for row in self._live if row["step"] < step]
        self.table.cut(self._committed + len(self._live))
        self.evaluations = {at: value for at, value in self.evaluations.items() if at < step}
        self.generation += 1

    def _extend(self, rows: Iterable[dict[str, Any]]) -> None:
        rows = [_row(row) for row in rows]
        if not rows:
            return
        width = max(len(ranked[name]) for _, ranked in rows for name in RANKED)
        arrays = {name: np.full((min(len(rows), KEPT_ROWS), width), np.nan) for name in RANKED}
        for name, array in arrays.items():
            for target, (_, ranked) in zip(array, rows[-KEPT_ROWS:], strict=True):
                target[: len(ranked[name])] = ranked[name]
        self.table.extend({name: np.array([plain[name] for plain, _ in rows]) for name in PLAIN}, arrays)

    # -- logs ---------------------------------------------------------------------------------------------------------

    def _read_logs(self, now: float) -> None:
        names = [LEADER, SUPERVISOR]
        if now - self._others >= OTHERS_S:
            self._others = now
            with contextlib.suppress(OSError):
                names += sorted(path.stem for path in self.run.events.glob("*.jsonl") if path.stem not in names)
        for name in names:
            tail = self._tails.setdefault(name, Tail(self.run.events / f"{name}.jsonl"))
            new = list[dict[str, Any]]()
            for line in tail.read():
                if RECORDS in line:
                    if name == LEADER and (row := self._record(line)) is not None:
                        self._live.append(row)
                elif (event := event_of(line)) is not None:
                    new.append(event)
            if new:
                self.events[name] = _kept([*self.events.get(name, []), *new])
                self.heard += len(new)
        self._extend(self._live[len(self.table) - self._committed :])


def _kept(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest events; of the health checks, which go on all the time, the last alone."""
    checks = [at for at, event in enumerate(events) if event["event"]["action"] == "health_check"]
    for at in reversed(checks[:-1]):
        del events[at]
    return events[-MOST_EVENTS:]


def _restored(figures: dict[str, Any]) -> dict[str, Any]:
    """As they were before they were written: NaN and infinity, and arrays of ranks."""
    odd = dict(text.split("=") for text in figures.get("not_finite", ()))
    values = figures | {name: float(text) for name, text in odd.items()}
    return {
        name: np.array(value, np.float64) if isinstance(value, list) and name.startswith("rank_") else value
        for name, value in values.items()
    }


def _row(figures: dict[str, Any]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """One step: what is one number, and what is one a rank."""
    ranked = {name: np.asarray(figures.get(name, ()), np.float64) for name in RANKED}
    plain = {name: float(figures[name]) for name in PLAIN if name != "ranks"}
    return plain | {"ranks": float(len(ranked["rank_step_s"]))}, ranked
