"""The sink for Prometheus: `metrics.prom` always, /metrics on request, and a file that tells Prometheus where that is.

Nothing here is on the critical path: a record is taken in microseconds, and a thread writes the file, because that
takes milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prometheus_client import generate_latest

from ryzen_mpi.metrics.exposition import Exposition
from ryzen_mpi.metrics.record import Record
from ryzen_mpi.metrics.scrape_server import ScrapeServer
from ryzen_mpi.metrics.sink import to_stderr

WRITE_S = 5.0
"""Seconds between two writes of metrics.prom at the least."""
WRITE_SHARE = 0.005
"""Share of a core's time that writing it may take at the most: of hundreds of ranks it is written more seldom."""


class PrometheusSink:
    """Keeps `path` in the format of the textfile collector, and serves the same at /metrics where `port` is given.

    A failure (port taken, disk full) is reported once, from the caller's thread, and stops nothing: the file is tried
    again every WRITE_S.

    Args:
        path: metrics.prom of the run directory; replaced as a whole, so that no reader finds half of it.
        labels: has "run" and "jobid".
        hosts: the node of each rank, in rank order.
        port: None: nothing is served; 0: a free one.
        address: where to listen.
        targets: folder for `<run>.json`, which Prometheus' file_sd reads; there as long as the port is served. One that
            a killed run left is replaced when the run goes on.
        report: told in a sentence what failed.
        layers: names of the layers that `gradient_variance` has a value for.
    """

    def __init__(
        self,
        path: Path,
        labels: Mapping[str, str],
        hosts: Sequence[str],
        *,
        port: int | None = None,
        address: str = "127.0.0.1",
        targets: Path | None = None,
        report: Callable[[str], None] = to_stderr,
        layers: Sequence[str] = (),
    ) -> None:
        self._path, self._report = Path(path), report
        self._exposition = Exposition(labels, hosts, layers)
        self._problem, self._told = "", False
        self._server: ScrapeServer | None = None
        self._target: Target | None = None
        self.address: str | None = None
        """ "host:port" of what is served, as others on this machine or network reach it; None where nothing is."""
        if port is not None:
            self._serve(address, port, hosts[0] if hosts else "localhost", labels, targets)
        self._fresh, self._ended = threading.Event(), threading.Event()
        self._fresh.set()  # at once: what an earlier attempt left must not be taken for this one's
        self._writer = threading.Thread(target=self._keep_writing, name="metrics.prom", daemon=True)
        self._writer.start()

    def write(self, record: Record) -> None:
        """Takes a record; it is in the file within about WRITE_S, and in the next scrape. Does not raise."""
        self._exposition.take(record)
        self._fresh.set()
        self._tell()

    def flush(self) -> None:
        """Does not wait: the file is about WRITE_S behind, and complete after close()."""

    def close(self) -> None:
        """Has the newest of everything in the file, says in it that the run has ended, and serves no more.

        Harmless when repeated. Does not raise.
        """
        if self._ended.is_set():
            return
        self._ended.set()
        self._fresh.set()
        self._writer.join()
        if self._target is not None:
            self._target.remove()
        if self._server is not None:
            self._server.close()
        self._tell()

    def _keep_writing(self) -> None:
        while not self._ended.is_set():
            self._fresh.wait()
            self._fresh.clear()
            began = time.thread_time()
            self._write_file()
            self._ended.wait(max(WRITE_S, (time.thread_time() - began) / WRITE_SHARE))
        self._exposition.running = False
        self._write_file()

    def _write_file(self) -> None:
        aside = self._path.with_name(f".{self._path.name}.partial-{os.getpid()}")
        try:
            aside.write_bytes(generate_latest(self._exposition.registry))
            os.replace(aside, self._path)
        except Exception as error:  # any: a bug must not end the thread without a word
            self._problem = f"{self._path} cannot be written ({getattr(error, 'strerror', None) or error})"
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)

    def _tell(self) -> None:
        """Reports what went wrong in the thread: once, and from the caller's thread, which may print."""
        if self._problem and not self._told:
            self._told = True
            self._report(f"metrics: {self._problem}; it is tried again, and training goes on")

    def _serve(self, address: str, port: int, host: str, labels: Mapping[str, str], targets: Path | None) -> None:
        try:
            self._server = ScrapeServer(self._exposition.registry, address, port)
        except OSError as error:
            reason = error.strerror or str(error)
            hint = "monitor.prometheus_port=0 takes a free one" if port else "see monitor.prometheus_address"
            self._report(f"metrics: port {port} at {address}: {reason}; /metrics is not served ({hint})")
            return
        shown = host if address in ("0.0.0.0", "::") else f"[{address}]" if ":" in address else address
        self.address = f"{shown}:{self._server.port}"
        if targets is not None:
            self._target = Target(Path(targets), self.address, labels)
            try:
                self._target.write()
            except OSError as error:
                self._report(f"metrics: {self._target.path} cannot be written ({error.strerror or error})")


class Target:
    """The file by which Prometheus finds a run: `<run>.json` in `folder`, in the format of file_sd."""

    def __init__(self, folder: Path, address: str, labels: Mapping[str, str]) -> None:
        run = str(labels.get("run", "none"))
        self.path = folder / f"{run.replace('/', '_')}.json"
        entry = {"targets": [address], "labels": {"run": run, "jobid": str(labels.get("jobid", "none"))}}
        self._text = json.dumps([entry], indent=1) + "\n"

    def write(self) -> None:
        """Puts it there as a whole; its name while it is made does not end in .json. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f".{self.path.name}.partial-{os.getpid()}")
        aside.write_text(self._text)
        os.replace(aside, self.path)

    def remove(self) -> None:
        """Takes it away, unless it is another's by now: of the attempt that went on in this one's place."""
        with contextlib.suppress(OSError):
            if self.path.read_text() == self._text:
                self.path.unlink()
