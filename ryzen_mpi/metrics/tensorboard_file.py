"""A file of events as TensorBoard reads it, written by a thread of its own.

The records are framed by TensorBoard's own RecordWriter. Its EventFileWriter is not used: that imports TensorFlow
wherever it is installed (seconds, and hundreds of MiB, on rank 0), stops the caller when ten events wait, and prints a
traceback when the disk is full.
"""

from __future__ import annotations

import itertools
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

MOST_WAITING = 4096
"""Events that may wait for the disk: beyond them it does not keep up, and memory would grow."""
PATIENCE_S = 10.0

_number = itertools.count()


class EventFile:
    """Appends events to a new file in `folder`. Local; its thread makes them, too: that is most of the work.

    Raises OSError where the file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # readers take the files of a folder in the order of their names, and so of their times
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_number)}"
        self.path = folder / name
        self._file = self.path.open("xb")
        self._error: Exception | None = None
        self._waiting: queue.SimpleQueue[Callable[[], Event] | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tensorboard", daemon=True)
        self._thread.start()
        self.put(lambda: Event(wall_time=time.time(), file_version="brain.Event:2"))

    def put(self, make: Callable[[], Event]) -> None:
        """Has the event that `make` returns written; called in the thread. Raises what went wrong with those before."""
        self._check()
        if self._waiting.qsize() >= MOST_WAITING:
            raise OSError(f"{self.path}: {MOST_WAITING} events wait for the disk")
        self._waiting.put(make)

    def flush(self) -> None:
        """Returns when all events so far are with the operating system. Raises OSError where they are not."""
        self._check()
        done = threading.Event()
        self._waiting.put(done)
        end = time.monotonic() + PATIENCE_S
        while not done.wait(0.05) and self._thread.is_alive():
            if time.monotonic() > end:
                raise OSError(f"{self.path}: the disk does not answer")
        self._check()

    def close(self) -> None:
        """Has everything written and ends the thread; harmless when repeated. Raises OSError."""
        self._waiting.put(None)
        self._thread.join(PATIENCE_S)
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        writer = RecordWriter(self._file)
        try:
            with self._file:
                while (item := self._waiting.get()) is not None:
                    if isinstance(item, threading.Event):
                        self._file.flush()
                        item.set()
                        continue
                    writer.write(item().SerializeToString())
                    if self._waiting.empty():
                        self._file.flush()
        except Exception as error:  # told to the next caller: a thread has nobody to raise it to
            self._error = error
