"""What a person sees: printed by rank 0 alone, live on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ryzen_mpi.beacon import launcher_pid
from ryzen_mpi.units import duration_text, rate_text

LINE_EVERY_S = 10.0
"""A log gets a line at most this often."""


LOG_COLUMNS = 120
"""A log has no width of its own."""


def terminal_columns() -> int | None:
    """Width of the terminal the person looks at, or None where the output goes elsewhere. Local.

    Under mpirun standard output is a terminal of mpirun's own making, wherever mpirun prints: the launcher is asked.
    """
    try:
        if "OMPI_COMM_WORLD_RANK" not in os.environ:
            return os.get_terminal_size(sys.stdout.fileno()).columns
        if not sys.stdout.isatty():
            return None
        launcher = os.open(f"/proc/{launcher_pid()}/fd/1", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            return os.get_terminal_size(launcher).columns
        finally:
            os.close(launcher)
    except (OSError, ValueError):
        return None


class Console:
    """Prints on rank 0 and drops everything on the others, so that callers need no conditions. Local."""

    def __init__(self, leader: bool) -> None:
        self.leader = leader
        self._rich: Any = None
        if leader:
            from rich.console import Console as Rich

            columns = terminal_columns()
            self._rich = Rich(  # emoji: a slice such as x[:o:] is code, not a picture
                width=columns or LOG_COLUMNS, force_terminal=columns is not None, highlight=False, emoji=False
            )

    @property
    def live(self) -> bool:
        """Whether a bar can be drawn: Open MPI gives several ranks a terminal, only rank 0 may use it."""
        return self.leader and self._rich.is_terminal

    def line(self, text: str = "") -> None:
        if self.leader:
            self._rich.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning, on standard error."""
        if self.leader:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def table(self, title: str, rows: Iterable[Sequence[str]], columns: Sequence[str]) -> None:
        """A table; values are shown as they are, never read as markup."""
        if not self.leader:
            return
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        self._rich.print(table)

    def progress(self, total: int, start: int) -> TrainingProgress:
        """A progress display over `total` steps of which `start` are done; use as a context."""
        if self.live:
            return LiveProgress(self._rich, total, start)
        return PlainProgress(self, total, start)


class TrainingProgress:
    """The protocol of both displays, and the arithmetic of the time left."""

    def __init__(self, total: int, start: int) -> None:
        self.total, self.start, self._began = total, start, time.monotonic()

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, step: int, loss: float, samples_per_s: float, note: str = "") -> None:
        """Step `step` (1-based) is done."""

    def left_text(self, step: int) -> str:
        """Time left at the pace so far, or `?` where there is none yet."""
        done = step - self.start
        if done < 2:
            return "?"
        return duration_text((time.monotonic() - self._began) / done * (self.total - step))


class PlainProgress(TrainingProgress):
    """A line every `LINE_EVERY_S` seconds, and at the first and last step."""

    def __init__(self, console: Console, total: int, start: int) -> None:
        super().__init__(total, start)
        self._console, self._printed = console, float("-inf")

    def update(self, step: int, loss: float, samples_per_s: float, note: str = "") -> None:
        now = time.monotonic()
        if now - self._printed < LINE_EVERY_S and step != self.total:
            return
        self._printed = now
        self._console.line(
            f"step {step}/{self.total}  loss {loss:.4f}  {rate_text(samples_per_s)} samples/s"
            f"{note}  {self.left_text(step)} left"
        )


class LiveProgress(TrainingProgress):
    """A bar with loss, samples a second and the time left."""

    def __init__(self, rich_console: Any, total: int, start: int) -> None:
        super().__init__(total, start)
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.text import Text

        class Bar(Progress):
            def get_renderables(self):
                yield from super().get_renderables()
                yield Text(" ")  # mpirun passes on whole lines only: the bar's own has to end

        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} samples/s"),
            TextColumn("{task.fields[note]}"),
            TextColumn("{task.fields[left]} left"),
            console=rich_console,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=total, completed=start, loss="?", rate="?", left="?", note="")

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, step: int, loss: float, samples_per_s: float, note: str = "") -> None:
        self._bar.update(
            self._task,
            completed=step,
            loss=f"{loss:.4f}",
            rate=rate_text(samples_per_s),
            note=note,
            left=self.left_text(step),
        )
