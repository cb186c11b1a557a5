"""Saving checkpoints beside the training: a copy at the step boundary, the writing in a thread of its own.

The format, and how a checkpoint is found and verified, is in `checkpoint_store`; its names are offered here too.
Rank 0 owns the writer; every rank may load.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import SET_ASIDE, Fenced
from ryzen_mpi.training.background import Background, explain
from ryzen_mpi.training.checkpoint_reading import (
    Checkpoint,
    DamagedCheckpoint,
    find_checkpoints,
    load_checkpoint,
    newest_good,
)
from ryzen_mpi.training.checkpoint_store import (
    Tensors,
    canonical,
    check_stems,
    directory_name,
    tensor_bytes,
    write_checkpoint,
)
from ryzen_mpi.training.shards import collect

__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "DamagedCheckpoint",
    "Saved",
    "find_checkpoints",
    "load_checkpoint",
    "newest_good",
    "set_aside_newer",
]

_HIDDEN = re.compile(r"\.(step-\d{8,})\.(partial|replaced|removed)-(\d+)")


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is on disk: its step and path, its tensors' bytes, the seconds its writing took."""

    step: int
    path: Path
    bytes: int
    seconds: float


class CheckpointWriter:
    """Writes checkpoints into `directory` in the background and keeps the newest `keep`. Local; rank 0.

    An error of the background is raised, as UserError, by the next submit, wait or close. An interpreter that ends
    without close() finishes the write under way first.

    Args:
        staging: where checkpoints are prepared and removed, made by others; `directory` itself when absent. Where it
            has gone, nothing in `directory` can be changed, and a write ends in Fenced.
        shards: how many other ranks hand in files of their own (see `shards.ShardWriter`).

    Attributes:
        last: the newest checkpoint this writer has put on disk, or None.
    """

    def __init__(self, directory: Path, keep: int, staging: Path | None = None, shards: int = 0) -> None:
        if keep < 1:
            raise UserError(f"checkpoints to keep: {keep}", "keep at least 1")
        self.directory = Path(directory)
        self.staging = staging or self.directory
        self.keep, self.shards = keep, shards
        self.last: Saved | None = None
        self.background = Background("checkpoint")
        self.wait, self.close = self.background.wait, self.background.close
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain(error, self.directory, 0) from error

    def submit(self, step: int, tensors: Tensors, state: dict[str, Any]) -> float:
        """Takes a copy of `tensors` and `state` to be written as step `step`; returns the seconds this took.

        The caller may change the tensors as soon as this returns. Waits for the write before, where it is still
        under way. `tensors`: by file stem, then by name; of any shape, strides and device. `state`: JSON values.
        Raises the previous write's error, ValueError for what JSON or a file name cannot hold.
        """
        check_stems(tensors)
        state = json.loads(canonical(state))  # a copy, and refused here rather than in the thread
        return self.background.submit(tensors, lambda copies: self._write(step, copies, state))

    @property
    def writing(self) -> bool:
        """Whether something submitted is not on disk yet, and has not failed."""
        return self.background.writing

    def _write(self, step: int, tensors: Tensors, state: dict[str, Any]) -> None:
        """Runs in the thread."""
        began = time.perf_counter()
        needed = tensor_bytes(tensors)
        try:
            others = partial(collect, self.staging, step, self.shards)
            path = write_checkpoint(self.directory, step, tensors, state, self.staging, others)
        except OSError as error:
            if not self.staging.is_dir() and self.staging != self.directory:
                raise Fenced(self.staging) from error
            raise explain(error, self.directory / directory_name(step), needed) from error
        self.last = Saved(step, path, needed, time.perf_counter() - began)
        self._retire(step)

    def _retire(self, step: int) -> None:
        """Removes all but the newest `keep` checkpoints up to `step`, and what dead writers left.

        Those of later steps are left alone: after a rollback they are the abandoned future, and counting them
        would retire the checkpoint just written. `set_aside_newer` moves them away.
        """
        written = [path for path in find_checkpoints(self.directory) if _step_of(path) <= step]
        for path in written[self.keep :]:
            _remove(path, self.staging)
        for path in self.directory.glob(".step-*"):
            if _is_stale(path):
                _remove(path, self.staging)


def set_aside_newer(directory: Path, step: int, keep: int, staging: Path | None = None) -> list[int]:
    """Moves the checkpoints of steps after `step` to `directory/set-aside`; returns those steps. Local; rank 0.

    After a rollback they are a future that was left; after damage, those that were passed over. Where they are they do
    not win when the run starts again, and a rollback that was a mistake can be taken back by hand. The newest `keep`
    set aside stay, older ones are deleted. Raises UserError, and Fenced where `staging` has gone.
    """
    staging, folder = staging or directory, directory / SET_ASIDE
    newer = [path for path in find_checkpoints(directory) if _step_of(path) > step]
    now = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    try:
        for path in newer:
            folder.mkdir(exist_ok=True)
            target = folder / f"{directory_name(_step_of(path))}.{now}"
            number = 1
            while target.exists():
                number += 1
                target = folder / f"{directory_name(_step_of(path))}.{now}-{number}"
            if staging != directory:  # there first: a rename that a stale attempt cannot do
                path = path.rename(staging / target.name)
            path.rename(target)
    except OSError as error:
        if not staging.is_dir() and staging != directory:
            raise Fenced(staging) from error
        raise UserError(f"{path} can't be set aside: {error.strerror}", "check the rights of the directory") from error
    aside = sorted(folder.glob("step-*.*"), key=lambda path: path.name.partition(".")[::-1], reverse=True)
    for path in aside[keep:]:
        _remove(path, staging)
    return sorted(map(_step_of, newer))


def _step_of(path: Path) -> int:
    return int(re.search(r"step-(\d+)", path.name)[1])


def _remove(path: Path, staging: Path) -> None:
    """Hides a checkpoint, then deletes it: one that is half deleted must not look like one."""
    hidden = staging / f".{directory_name(_step_of(path))}.removed-{os.getpid()}"
    with contextlib.suppress(OSError):  # tried again after the next checkpoint
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _is_stale(path: Path) -> bool:
    """Whether a hidden directory is of no use: its writer is dead or idle, and it is not the only copy of its step."""
    match = _HIDDEN.fullmatch(path.name)
    if not match or (match[2] == "replaced" and not path.with_name(match[1]).exists()):
        return False
    owner = int(match[3])
    return owner == os.getpid() or not psutil.pid_exists(owner)
