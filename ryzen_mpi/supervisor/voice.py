"""What the supervisor says: to people on standard error, to programs in events/supervisor.jsonl, both at once."""

from __future__ import annotations

import sys
import time

from ryzen_mpi.metrics.events import EventLog


class Voice:
    """Says what happens. Local."""

    def __init__(self, events: EventLog) -> None:
        self.events = events

    def say(self, action: str, text: str, level: str = "info", **figures: object) -> None:
        """An event of name `action`, with `figures` for programs and `text` for people. Never raises."""
        mark = "" if level == "info" else f"{level}: "
        print(f"supervisor {time.strftime('%H:%M:%S')}  {mark}{text}", file=sys.stderr, flush=True)
        self.events.event(action, text, level, dataset="supervisor", **figures)
