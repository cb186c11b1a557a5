"""Copies of tensors, and a thread that writes them while the training goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from ryzen_mpi.errors import UserError
from ryzen_mpi.training.checkpoint_store import Tensors
from ryzen_mpi.units import bytes_text

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NICENESS = 5  # the training threads share the cores: about three quarters of a contested one is theirs


class Background:
    """One write at a time. An interpreter that ends without close() finishes the one under way first. Local."""

    def __init__(self, name: str) -> None:
        self._buffers: Tensors = {}
        self._under_way: Future[None] | None = None
        # The executor's thread is joined at interpreter exit before anything it needs is taken down.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_step_back)

    def submit(self, tensors: Tensors, write: Callable[[Tensors], None]) -> float:
        """Has `write` called with a copy of `tensors`; returns the seconds it held the caller up.

        Waits for the write before, where it is still under way, and raises its error.
        """
        began = time.perf_counter()
        self.wait()
        self._buffers = {stem: _copy(named, self._buffers.get(stem, {})) for stem, named in tensors.items()}
        self._under_way = self._thread.submit(write, self._buffers)
        return time.perf_counter() - began

    @property
    def writing(self) -> bool:
        """Whether a write has neither ended nor failed."""
        return self._under_way is not None and not self._under_way.done()

    def wait(self) -> None:
        """Returns when the write under way has ended; raises its error."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """Waits as wait() does and ends the thread; harmless when repeated."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._buffers = {}


def _copy(tensors: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of `tensors` on the CPU, contiguous, in the memory of `buffers` where shape and type still fit."""
    copies = {}
    for name, tensor in tensors.items():
        buffer = buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype)
        copies[name] = buffer.copy_(tensor.detach())
    return copies


def _step_back() -> None:
    """Makes the calling thread nicer than the training's; on Linux a thread has a niceness of its own."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def explain(error: OSError, path: Path, needed: int) -> UserError:
    """The UserError for what the file system refused."""
    if error.errno not in _FULL:
        hint = "check the owner, rights and mount options of the run directory"
        return UserError(f"checkpoint {path} cannot be written: {error.strerror or error}", hint)
    free = bytes_text(shutil.disk_usage(path.parent).free)
    message = f"checkpoint {path} does not fit: {bytes_text(needed)} needed, {free} free ({error.strerror})"
    return UserError(message, "free some space, keep fewer checkpoints, or choose another run directory")
