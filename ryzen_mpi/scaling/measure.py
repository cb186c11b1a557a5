"""Making the launches of a plan, one after the other, and keeping each as it comes, so that a killed one goes on.

The folder: `plan.json`; `launches/0003/` with `spec.json`, and `launch.json` (what was measured) or `failed.json` (why
it was not); `data/`, the corpus. A launch that was under way when its driver was killed has neither: its folder is
renamed away, so that a worker which outlived the driver finds no place for its answer.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import Held, hold, write_atomic
from ryzen_mpi.scaling.launch import Ended, Nodes, launch
from ryzen_mpi.scaling.plan import Plan, Turn
from ryzen_mpi.scaling.record import Launch, parse
from ryzen_mpi.scaling.spec import Spec
from ryzen_mpi.sealing import digest
from ryzen_mpi.units import duration_text, rate_text

LARGEST_FILE = 64 << 20
Tell = Callable[[str], object]


@dataclass(frozen=True)
class Failed:
    """A launch that measured nothing; JSON-able."""

    number: int
    mode: str
    ranks: int
    repeat: int
    why: str


@dataclass
class Kept:
    """What a folder holds: launches and failures, in the order they were made."""

    launches: list[Launch]
    failed: list[Failed]
    values: list[Any]
    """The launches' JSON values as they were read, so that their hashes can be looked at."""

    @property
    def number(self) -> int:
        return max((item.number for item in (*self.launches, *self.failed)), default=0)


def measure(plan: Plan, folder: Path, nodes: Nodes, tell: Tell = lambda line: None) -> Kept:
    """Makes what the plan has and the folder has not yet. Local: starts the ranks itself. Raises UserError.

    A launch that fails is told, kept as failed and not tried again by this call; the next call tries it again.
    """
    with _claim(plan, folder):
        kept = read_folder(folder)
        done = {Turn(each.mode, each.ranks, each.repeat) for each in kept.launches}
        turns = plan.turns()
        left = [turn for turn in turns if turn not in done]
        if done:
            tell(f"{len(turns) - len(left)} of {len(turns)} launches are there already")
        clock, number = _Clock(), _next_number(folder)
        for place, turn in enumerate(left):
            began = time.monotonic()
            answer = _one(plan, turn, number + place, folder, nodes)
            clock.took(turn, time.monotonic() - began)
            head = f"({len(turns) - len(left) + place + 1}/{len(turns)}) {turn.text}"
            tell(f"{head}: {_said(answer)}{clock.left_text(left[place + 1 :])}")
        return read_folder(folder)


def _said(answer: Launch | Failed) -> str:
    if isinstance(answer, Failed):
        return f"FAILED: {answer.why.splitlines()[0]}"
    return f"{rate_text(answer.throughput)} samples/s, {duration_text(answer.measured_s)} measured"


def _one(plan: Plan, turn: Turn, number: int, folder: Path, nodes: Nodes) -> Launch | Failed:
    """One launch, and its file."""
    own = folder / "launches" / f"{number:04d}"
    own.mkdir(parents=True)
    answer = own / "launch.json"
    spec = Spec(
        number,
        turn.repeat,
        turn.mode,
        turn.ranks,
        plan.batch(turn),
        plan.steps,
        plan.warmup_steps,
        plan.threads,
        plan.profile,
        plan.overrides,
        str((folder / "data").resolve()),
        str(answer.resolve()),
    )
    spec.write(own / "spec.json")
    program = ("-m", "ryzen_mpi.scaling.worker", str((own / "spec.json").resolve()))
    variables = {"OMP_NUM_THREADS": str(plan.threads)}
    try:
        ended = launch(turn.ranks, program, plan.limit_s, nodes, plan.per_node, variables)
    except BaseException:
        _end_launch(program[-1])  # interrupted while it was being started: nobody else knows of it
        raise
    why, found = _judge(ended, answer, plan.limit_s)
    if found is not None:
        return found
    failed = Failed(number, turn.mode, turn.ranks, turn.repeat, why)
    write_atomic(own / "failed.json", json.dumps(asdict(failed), indent=1) + "\n")
    return failed


def _end_launch(spec: str) -> None:
    """Ends what this process started with the file `spec` on its command line. Local."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if spec in process.cmdline():
                process.kill()


def _judge(ended: Ended, answer: Path, limit_s: float) -> tuple[str, Launch | None]:
    """The launch, or in words why there is none: an exit code of 0 proves nothing, and another one something."""
    if ended.timed_out:
        return f"ended at its limit of {duration_text(limit_s)} (--limit)\n{ended.tail()}", None
    if ended.code:
        return f"exit code {ended.code}{_cause(ended)}\n{ended.tail()}", None
    try:
        return "", parse(_read(answer))
    except (OSError, ValueError) as error:
        return f"it ended in order and left no launch behind: {error}\n{ended.tail()}", None


def _cause(ended: Ended) -> str:
    """The line in which a rank says why it failed, after ": "; empty where none does."""
    lines = (line.strip() for line in ended.err.splitlines())
    return next((f": {line}" for line in lines if line.startswith(("error: ", "ryzen_mpi: rank "))), "")


def _next_number(folder: Path) -> int:
    names = [path.name[:4] for path in (folder / "launches").glob("[0-9][0-9][0-9][0-9]*")]
    return max((int(name) for name in names if name.isdigit()), default=0) + 1


def read_folder(folder: Path) -> Kept:
    """What was measured in a folder of `measure`. Local. Raises UserError where a file of it is damaged."""
    kept = Kept([], [], [])
    for own in sorted((folder / "launches").glob("[0-9][0-9][0-9][0-9]")):
        try:
            if (own / "failed.json").exists():
                kept.failed.append(Failed(**_read(own / "failed.json")))
            elif (own / "launch.json").exists():
                values = _read(own / "launch.json")
                kept.launches.append(parse(values))
                kept.values.append(values)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{own} holds no launch that can be read: {error}", "move this folder away: it is measured again"
            ) from None
    return kept


def _read(path: Path) -> Any:
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path.name} is larger than {LARGEST_FILE >> 20} MiB")
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _claim(plan: Plan, folder: Path) -> Iterator[None]:
    """The folder for this process alone, of this plan. Raises UserError."""
    import os

    try:
        (folder / "launches").mkdir(parents=True, exist_ok=True)
        lock = hold(folder / ".lock")
    except Held as held:
        raise UserError(f"{folder} is in use by {held.holder}", "wait for it, or choose another with --out") from None
    except OSError as error:
        raise UserError(f"{folder} can't be used: {error.strerror or error}", "choose another with --out DIR") from None
    try:
        _same_plan(plan, folder / "plan.json")
        _set_aside(folder / "launches")
        yield
    finally:
        os.close(lock)


def _same_plan(plan: Plan, path: Path) -> None:
    wanted = plan.what()
    if not path.exists():
        write_atomic(path, json.dumps(wanted | {"sha256": digest(wanted)}, indent=1) + "\n")
        return
    try:
        found = _read(path)
        found = {key: found.get(key) for key in wanted}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} can't be read: {error}", "choose another folder with --out DIR") from None
    for key, value in wanted.items():
        if found[key] != value:
            raise UserError(
                f"{path.parent} was begun with {key}={found[key]}, and this is {key}={value}",
                "launches that differ are not compared: choose another folder with --out DIR",
            )


def _set_aside(launches: Path) -> None:
    """Renames launches without an end, in a way that fences off their workers."""
    for own in launches.glob("[0-9][0-9][0-9][0-9]"):
        if not (own / "launch.json").exists() and not (own / "failed.json").exists():
            own.rename(own.with_name(f"{own.name}.interrupted"))


class _Clock:
    """The time left, from what launches of the same kind took so far."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, int], list[float]] = {}

    def took(self, turn: Turn, seconds: float) -> None:
        self._taken.setdefault((turn.mode, turn.ranks), []).append(seconds)

    def left_text(self, turns: list[Turn]) -> str:
        if not turns:
            return ""
        everything = [seconds for taken in self._taken.values() for seconds in taken]
        left = 0.0
        for turn in turns:
            like = self._taken.get((turn.mode, turn.ranks), everything)
            left += sum(like) / len(like)
        return f"  {duration_text(left)} left"
