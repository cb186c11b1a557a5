"""torch.distributed's work objects, and the line in which collectives that nobody waits for are done."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

JOIN_S = 5.0


class Finished(dist.Work):
    """A collective that is done already."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def wait(self, timeout: timedelta | None = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def synchronize(self) -> None:
        return None

    def result(self) -> list[Tensor]:
        return self.tensors

    def get_future(self) -> torch.futures.Future:
        future: torch.futures.Future = torch.futures.Future()
        future.set_result(self.tensors)
        return future


class Pending(dist.Work):
    """A collective in line. `finish` is called once, by the thread of the line."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.tensors = tensors
        self.future: torch.futures.Future = torch.futures.Future()
        self.error: Exception | None = None
        self.done = threading.Event()

    def finish(self, error: Exception | None) -> None:
        self.error = error
        self.done.set()
        if error is None:
            self.future.set_result(self.tensors)
        else:
            self.future.set_exception(error)

    def wait(self, timeout: timedelta | None = None) -> bool:
        limit = None if timeout is None or timeout <= timedelta(0) else timeout.total_seconds()
        if not self.done.wait(limit):
            raise TimeoutError(f"a collective in line did not end in {limit:.3g} s")
        if self.error is not None:
            raise self.error
        return True

    def is_completed(self) -> bool:
        return self.done.is_set()

    def is_success(self) -> bool:
        return self.done.is_set() and self.error is None

    def exception(self) -> Exception | None:
        return self.error

    def synchronize(self) -> None:
        self.wait()

    def result(self) -> list[Tensor]:
        self.wait()
        return self.tensors

    def get_future(self) -> torch.futures.Future:
        return self.future


class Line:
    """One thread that does what is put in line, in order; started when first needed.

    A daemon that is asked to end through atexit: other shapes abort or hang at interpreter exit.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting = 0
        self._queue: SimpleQueue[tuple[Callable[[], None], Pending] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, act: Callable[[], None], work: Pending) -> None:
        """`act` will be called after all that was put before; `work` finishes with it. Local."""
        with self._lock:
            self.waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._queue.put((act, work))

    def close(self) -> None:
        """Ends the thread when all is done. Local."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            atexit.unregister(self.close)
            self._queue.put(None)
            thread.join(JOIN_S)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            act, work = item
            error = None
            try:
                act()
            except Exception as failure:
                error = failure
            with self._lock:
                self.waiting -= 1
            work.finish(error)
            del item, act, work  # a tensor is not kept until the next one comes


class Message(dist.Work):
    """A message under way between two ranks.

    Args:
        request: of MPI.
        tensor: sent from or received into; contiguous.
        until_done: waits for a request (Patience.finish, with errors named).
        landed: called once with MPI's status when it is done.
    """

    def __init__(
        self,
        request: Any,
        tensor: Tensor,
        until_done: Callable[[Callable[[], bool], float | None], None],
        landed: Callable[[Any], None],
    ) -> None:
        super().__init__()
        from mpi4py import MPI

        self.request, self.tensor, self._until_done, self._landed = request, tensor, until_done, landed
        self.status = MPI.Status()
        self.error: Exception | None = None
        self._complete = False
        self._lock = threading.Lock()

    def is_completed(self) -> bool:
        with self._lock:
            if not self._complete and self.request.Test(self.status):
                self._complete = True
                self._landed(self.status)
        return self._complete

    def is_success(self) -> bool:
        return self._complete and self.error is None

    def exception(self) -> Exception | None:
        return self.error

    def wait(self, timeout: timedelta | None = None) -> bool:
        limit = None if timeout is None or timeout <= timedelta(0) else timeout.total_seconds()
        try:
            self._until_done(self.is_completed, limit)
        except Exception as error:
            self.error = error
            raise
        return True

    def synchronize(self) -> None:
        self.wait()

    def result(self) -> list[Tensor]:
        return [self.tensor]

    def source_rank(self) -> int:
        return self.status.source

    def _source_rank(self) -> int:
        return self.status.source

    def get_future(self) -> torch.futures.Future:
        """Set by a thread of its own: messages pass one another, a line of them could wait for ever."""
        future: torch.futures.Future = torch.futures.Future()

        def settle() -> None:
            try:
                self.wait()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result([self.tensor])

        threading.Thread(target=settle, name="ryzen_mpi message", daemon=True).start()
        return future
