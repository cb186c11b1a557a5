"""Small files of a run directory, read again when they have changed; and who holds its lock, without touching it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 4 << 20
_HOLDER = re.compile(r"process (\d+) on (\S+)")


class Document:
    """A file that holds an object (JSON, or YAML with `parse`)."""

    def __init__(self, path: Path, parse: Callable[[str], Any] = json.loads) -> None:
        self.path, self._parse = path, parse
        self._seen: tuple | None = None
        self._content: dict[str, Any] | None = None

    def read(self) -> dict[str, Any] | None:
        """Its content; None where it is absent, damaged, too large or no object. Never raises for a bad file."""
        try:
            found = os.stat(self.path)
            seen = found.st_ino, found.st_size, found.st_mtime_ns
            if seen != self._seen:
                content = self._parse(self.path.read_text(encoding="utf-8")) if found.st_size <= MOST_BYTES else None
                self._seen, self._content = seen, content if isinstance(content, dict) else None
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            self._seen = self._content = None
        return self._content


def holder_is_gone(lock: Path) -> str | None:
    """The process that a lock file names, if it was of this machine and is no more; else None.

    Taking the lock would tell more, and could turn away a run that starts at that moment.
    """
    try:
        found = _HOLDER.search(lock.read_text()[:200])
    except (OSError, ValueError):
        return None
    if found is None or found[2] != os.uname().nodename or Path("/proc", found[1]).exists():
        return None
    return f"process {found[1]} on {found[2]}"
