"""What people ask of a running supervisor: a file for each request in the run directory, and a file for its answer."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.supervisor.files import Files

_ANSWER = ".answer"
KINDS = ("resize", "rollback")


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        kind: `resize` or `rollback`.
        ranks: how many to go on with; for a rollback None is half of what is running.
        step: checkpoint to go back to; None: the one saved for this.
        why, by, asked: cause, person and wall clock, for the record.
        name: of its file.
    """

    kind: str
    ranks: int | None = None
    step: int | None = None
    why: str = ""
    by: str = ""
    asked: float = 0.0
    name: str = ""


def put(files: Files, kind: str, ranks: int | None, step: int | None, why: str) -> Request:
    """Leaves a request for the supervisor of a run. Raises UserError where none is at work."""
    if not files.is_supervised():
        raise UserError(
            f"no supervisor is at work on {files.run.path}",
            "start one with: python -m ryzen_mpi.supervise … -- mpirun -np N python -m ryzen_mpi.train "
            f"--run-dir {files.run.path}",
        )
    name = f"{time.time_ns()}-{os.getpid()}"
    request = Request(kind, ranks, step, why, f"{getpass.getuser()}@{socket.gethostname()}", time.time(), name)
    folder = files.requests
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{name}.json", json.dumps(asdict(request)) + "\n")
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}", "only the run's owner can ask") from None
    return request


def pending(files: Files) -> list[Request]:
    """Requests without a last answer, oldest first. What is no request is passed over."""
    found = []
    for path in sorted(files.requests.glob("*.json")):
        if path.name.endswith(f"{_ANSWER}.json") or _answer_path(files, path.stem).exists():
            continue
        try:
            request = Request(**(json.loads(path.read_text()) | {"name": path.stem}))
        except (OSError, ValueError, TypeError):
            continue
        if request.kind in KINDS and all(
            value is None or (isinstance(value, int) and value >= 0) for value in (request.ranks, request.step)
        ):
            found.append(request)
    return found


def answer(files: Files, request: Request, done: bool, text: str) -> None:
    """Tells the person who asked how it went. Raises OSError."""
    write_atomic(_answer_path(files, request.name), json.dumps({"done": done, "text": text}) + "\n")


def wait_for_answer(files: Files, request: Request, tell: Callable[[float], None]) -> str:
    """The answer's text, once it is there. Raises UserError where it is a refusal or the supervisor ended.

    Args:
        tell: called about once a second with the seconds waited.
    """
    began = time.monotonic()
    path = _answer_path(files, request.name)
    while not path.exists():
        if not files.is_supervised() and not path.exists():
            (files.requests / f"{request.name}.json").unlink(missing_ok=True)  # not for the next supervisor
            raise UserError("the supervisor ended before it answered", f"see {files.run.path}/events/supervisor.jsonl")
        time.sleep(1.0 if time.monotonic() - began > 3 else 0.2)
        tell(time.monotonic() - began)
    content = json.loads(path.read_text())
    if not content["done"]:
        raise UserError(content["text"])
    return content["text"]


def _answer_path(files: Files, name: str) -> Path:
    return files.requests / f"{name}{_ANSWER}.json"
