"""What a rank says of its own end: to its guard at once, and to its event log."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from ryzen_mpi.beacon import Beacon
from ryzen_mpi.cluster.job import how_it_ends
from ryzen_mpi.cluster.world import World
from ryzen_mpi.metrics.events import EventLog
from ryzen_mpi.rundir import RunDirectory


class Witness:
    """Records the error that leaves its block, and lets it go on. Local; may be entered again inside itself."""

    def __init__(self, world: World, run: RunDirectory, beacon: Beacon) -> None:
        self.world, self.run, self.beacon = world, run, beacon
        self._seen: BaseException | None = None

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        if error is None or error is self._seen:
            return
        self._seen = error
        last = self.beacon.reading()
        end, text = how_it_ends(error)
        self.beacon.tell(end, text)
        try:
            # A log of its own: the run's may not be open yet, or be what failed.
            log = EventLog(self.run.events, self.world.rank, event_labels(self.world, self.run), self._say)
            if end == "stopped":
                log.event("stop", text, step=last.step, phase=last.phase)
            else:
                log.event(
                    "failure", text, "error", end=end, type=type(error).__name__, step=last.step, phase=last.phase
                )
            log.close()
        except Exception as problem:  # whatever else is broken, the error itself must come out
            self._say(str(problem))

    def _say(self, why: str) -> None:
        last = self.beacon.reading()
        print(f"ryzen_mpi: rank {self.world.rank} after step {last.step}: {last.text} ({why})", file=sys.stderr)


def event_labels(world: World, run: RunDirectory) -> dict[str, str]:
    """The fixed fields of every line of a rank's event log."""
    labels = {"run": run.path.name, "node": world.hostname, "jobid": os.environ.get("SLURM_JOB_ID", "none")}
    return labels if run.epoch is None else labels | {"epoch": str(run.epoch)}
