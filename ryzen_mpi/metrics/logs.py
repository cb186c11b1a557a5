"""The logs of a rank: ECS JSON lines in three streams, made for a shipper such as Filebeat to follow.

They tell again what metrics.h5 and events/ hold, rank by rank and bounded in size; nothing reads them back.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path

from ryzen_mpi.metrics.ecs import EcsFile
from ryzen_mpi.metrics.sink import to_stderr

STREAMS: dict[str, dict[str, object]] = {
    "performance": {"kind": "metric"},
    "communication": {"kind": "metric", "category": ["network"], "type": ["info"]},
    "fault": {"kind": "event", "category": ["process"], "type": ["info"]},
}
"""What ECS knows of the lines of each stream, below event."""


def log_file(folder: Path, stream: str, rank: int) -> Path:
    """The file that a rank's stream is written to; older lines are in the same name with .1, .2, .3 behind it."""
    return Path(folder) / f"{stream}-{rank:04d}.jsonl"


class RankLogs:
    """Appends to the streams of a rank in `folder`. Local; every rank has its own. Never raises.

    What cannot be written is reported once a stream; the next line that can be tells how many were lost
    (ryzen.lines_lost_before). A file is made with its first line.

    Args:
        folder: the run's `logs` directory.
        rank: this rank; names the files.
        labels: fixed texts of every line (jobid, run, node), kept under `labels` beside the rank.
        most_bytes: size at which a file gives way to the next; four a stream are kept.
        report: told in a sentence when lines are lost.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        labels: Mapping[str, object],
        most_bytes: int,
        report: Callable[[str], None] = to_stderr,
    ) -> None:
        texts = {"rank": str(rank)} | {name: str(value) for name, value in labels.items()}
        fields = {"host.name": texts.get("node", platform.node())}
        self._report = report
        self._files = {
            stream: EcsFile(
                log_file(folder, stream, rank),
                f"ryzen_mpi.{stream}",
                texts,
                report,
                fields=fields,
                most_bytes=most_bytes,
            )
            for stream in STREAMS
        }

    def performance(self, **figures: object) -> None:
        """A line of how fast the rank is and what its machine does."""
        self._sample("performance", figures)

    def communication(self, **figures: object) -> None:
        """A line of what the rank sent and waited for."""
        self._sample("communication", figures)

    def fault(self, action: str, message: str, level: str = "warning", **figures: object) -> None:
        """A line of something that went wrong, or of what was done about it.

        Args:
            action: what, a stable word ("skip", "straggler"); becomes event.action.
            message: the same for people.
            level: "info", "warning", "error" or "critical".
            figures: numbers, texts or sequences of them, kept under `ryzen.`.
        """
        self._append("fault", action, message, level, figures)

    def close(self) -> None:
        """Puts the files on the disk and closes them; harmless when repeated."""
        for file in self._files.values():
            try:
                file.close()
            except OSError as error:
                self._report(f"{file.path}: lines may be lost ({error.strerror or error})")

    def _sample(self, stream: str, figures: Mapping[str, object]) -> None:
        message = f"{stream} after step {figures['step']}" if "step" in figures else stream
        self._append(stream, "sample", message, "info", figures)

    def _append(self, stream: str, action: str, message: str, level: str, figures: Mapping[str, object]) -> None:
        event = {"action": action, "dataset": f"ryzen_mpi.{stream}", **STREAMS[stream]}
        self._files[stream].attempt(event, message, level, figures)
