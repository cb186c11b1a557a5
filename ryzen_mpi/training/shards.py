"""Checkpoints that many ranks write: each puts its own file beside, and rank 0 takes them all into one directory.

A rank says that its file is whole with a small entry that is renamed into place after it. Rank 0 waits for the entries
in its writing thread, moves the files, and only then writes the manifest; nothing of it is a collective.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.training.background import Background, explain
from ryzen_mpi.training.checkpoint_store import SUFFIX, Tensors, tensor_bytes, write_tensors

WAIT_S = 300.0
"""Seconds without any new byte of another rank before rank 0 takes a checkpoint for failed."""
LOOK_S = 0.05


def stem(rank: int) -> str:
    """Of a rank's file in a checkpoint."""
    return f"shard-{rank:05d}"


class ShardWriter:
    """Writes the file of a rank other than 0 into `staging`, in the background. Local.

    What goes wrong is told to rank 0, which tells it to all: submit and close raise nothing.
    """

    def __init__(self, staging: Path, rank: int) -> None:
        self.staging, self.rank = staging, rank
        self.background = Background("shard")

    def submit(self, step: int, tensors: dict[str, Any]) -> float:
        """Takes a copy of `tensors` to be written for step `step`; returns the seconds this took."""
        return self.background.submit({stem(self.rank): tensors}, lambda copies: self._write(step, copies))

    def close(self) -> None:
        """Returns when what was submitted is written."""
        self.background.close()

    def _write(self, step: int, tensors: Tensors) -> None:
        """Runs in the thread."""
        self._clear()
        path = self.staging / f".{stem(self.rank)}-{step:08d}{SUFFIX}"
        try:
            entry: dict[str, Any] = write_tensors(path, tensors[stem(self.rank)])
        except OSError as error:
            told = explain(error, path, tensor_bytes(tensors))
            entry = {"error": str(told)}
        with contextlib.suppress(OSError):  # then rank 0 waits in vain, and says so
            write_atomic(path.with_suffix(".json"), json.dumps(entry))

    def _clear(self) -> None:
        """What was handed in before and not taken belongs to a checkpoint that failed."""
        for path in self.staging.glob(f".{stem(self.rank)}-*"):
            with contextlib.suppress(OSError):
                path.unlink()


def collect(staging: Path, step: int, shards: int, target: Path) -> dict[str, dict[str, Any]]:
    """Moves the files of ranks 1 to `shards` for step `step` into `target`; their manifest entries.

    Local; rank 0. Waits for them. Raises OSError where a rank could not write or its file does not come.
    """
    entries: dict[str, dict[str, Any]] = {}
    seen, since = -1, time.monotonic()
    while len(entries) < shards:
        for rank in range(1, shards + 1):
            name = f"{stem(rank)}{SUFFIX}"
            if name not in entries and (entry := _taken(staging, step, rank, target)) is not None:
                entries[name] = entry
        size = sum(_size(path) for path in staging.glob(".shard-*")) + len(entries)
        if size != seen:
            seen, since = size, time.monotonic()
        elif time.monotonic() - since > WAIT_S:
            absent = [rank for rank in range(1, shards + 1) if f"{stem(rank)}{SUFFIX}" not in entries]
            raise OSError(f"the shards of ranks {', '.join(map(str, absent))} did not come in {WAIT_S:g} s")
        if len(entries) < shards:
            time.sleep(LOOK_S)
    return entries


def _taken(staging: Path, step: int, rank: int, target: Path) -> dict[str, Any] | None:
    """The entry of a rank whose file is there, which it moves; None where it is not yet."""
    path = staging / f".{stem(rank)}-{step:08d}.json"
    try:
        entry = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise OSError(f"{path} is not JSON ({error})") from error
    if "error" in entry:
        raise OSError(f"rank {rank}: {entry['error']}")
    os.rename(path.with_suffix(SUFFIX), target / f"{stem(rank)}{SUFFIX}")
    path.unlink()
    return {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
