"""Where records go: the protocol, the sink that drops, and the fan-out that no broken sink can stop."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from typing import Protocol

from ryzen_mpi.metrics.record import Record


class Sink(Protocol):
    """Takes records in the order of their steps. All methods are local; rank 0 calls them.

    Any of them may raise: `Sinks` catches it. close() may be called again.
    """

    def write(self, record: Record) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class NullSink:
    """Drops everything: what the ranks other than 0 have."""

    def write(self, record: Record) -> None:
        """Drops `record`."""

    def flush(self) -> None:
        """Has nothing to flush."""

    def close(self) -> None:
        """Has nothing to close."""


def to_stderr(message: str) -> None:
    """Prints a line on standard error: the default where nobody asked to be told of failures."""
    print(f"ryzen_mpi: {message}", file=sys.stderr, flush=True)


class Sinks:
    """Hands every record to every sink; one that fails is reported once and dropped, and training goes on.

    Args:
        sinks: the sinks; this object closes them.
        report: told in a sentence which sink was dropped and why.
    """

    def __init__(self, sinks: Iterable[Sink], report: Callable[[str], None] = to_stderr) -> None:
        self._sinks = list(sinks)
        self._report = report

    def write(self, record: Record) -> None:
        """Hands `record` to every sink. Never raises."""
        for sink in self._sinks.copy():
            self._attempt(sink, lambda sink=sink: sink.write(record))

    def flush(self) -> None:
        """Flushes every sink. Never raises."""
        for sink in self._sinks.copy():
            self._attempt(sink, sink.flush)

    def close(self) -> None:
        """Closes every sink. Never raises."""
        for sink in self._sinks.copy():
            self._attempt(sink, sink.close)

    def attempt(self, sink: Sink, act: Callable[[], None]) -> None:
        """Does something else with one of the sinks, where it is still there. Never raises."""
        if sink in self._sinks:
            self._attempt(sink, act)

    def _attempt(self, sink: Sink, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - any: a bug in a sink must not cost a week of training either
            self._sinks.remove(sink)
            with contextlib.suppress(Exception):
                sink.close()
            reason = f"{type(error).__name__}: {error}"
            self._report(f"metrics: {type(sink).__name__} failed and is dropped; training goes on ({reason})")
