"""The driver's end of a side: its job of `mpirun`, spoken to in lines."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

LINES_SHOWN = 12
ENDING_S = 20.0


class SideError(Exception):
    """A side ended or fell silent; the message holds what it said last."""


class Job:
    """A side that runs. Waiting for its answers takes no core.

    Args:
        name: for errors.
        command: that starts it; the first answer tells that it is up.
        timeout_s: of every answer.
    """

    def __init__(self, name: str, command: Sequence[str], timeout_s: float) -> None:
        self.name, self.timeout_s, self._rest = name, timeout_s, b""
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        try:
            self.ready = self._answer()
        except SideError:
            self.close()
            raise

    def ask(self, word: str) -> Any:
        """The answer to `word`. Raises SideError."""
        try:
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideError(self._obituary("ended")) from None
        return self._answer()

    def close(self) -> None:
        """Ends the side, by force where it does not."""
        try:
            self._process.stdin.write(b"quit\n")
            self._process.stdin.close()
        except OSError:
            pass
        for end in (lambda: None, self._process.terminate, self._process.kill):
            end()
            try:
                self._process.wait(ENDING_S)
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> Any:
        deadline = time.monotonic() + self.timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(deadline - time.monotonic()):
                    raise SideError(self._obituary(f"gave no answer in {self.timeout_s:g} s"))
                piece = os.read(self._process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise SideError(self._obituary("ended"))
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def _obituary(self, what: str) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - (64 << 10)))
        return f"{self.name} {what}:\n{last_words(self._errors.read().decode(errors='replace'))}"


def last_words(text: str) -> str:
    """Of all that a job wrote, what tells why it ended: the last traceback, or the last lines. Pure."""
    lines = [line for line in text.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    if not starts:
        return "\n".join(lines[-LINES_SHOWN:])
    ends = (n for n in range(starts[-1] + 1, len(lines)) if lines[n] and not lines[n][0].isspace())
    end = next(ends, len(lines) - 1)
    return "\n".join(lines[max(starts[-1], end - LINES_SHOWN) : end + 4])
