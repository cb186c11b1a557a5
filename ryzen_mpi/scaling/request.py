"""What a calibration asks of one launch, handed over as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ryzen_mpi.rundir import write_atomic

PARTS = ("compute", "together", "shared", "messages", "compression", "checkpoint")
MEASURED_AS = (
    *("training.total_epochs=1000000", "training.max_steps=null", "data.source=random"),
    *("training.virtual_ranks=1", "hardware.zero_stage=0", "distributed.compression=none"),
)
"""Random tokens cost what others do and need no corpus; what stages and compression change is the model's matter."""


@dataclass(frozen=True)
class Request:
    """What is asked of a launch.

    Attributes:
        config, overrides: the settings that are measured.
        threads: of a rank; its cores are those of one of the ranks that fill the node with them.
        rounds, steps: turns of every side, and steps of a turn.
        parts: of PARTS. `shared`: the ranks of the node on the cores of its first.
        shares: samples a rank and step; by default around training.batch_size.
        folder: where checkpoints are written to be timed.
        answer: the file to write.
    """

    config: str
    overrides: tuple[str, ...]
    threads: int
    rounds: int
    steps: int
    parts: tuple[str, ...]
    shares: tuple[int, ...]
    folder: str
    answer: str

    def write(self, path: Path) -> None:
        write_atomic(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Request:
        content = json.loads(path.read_text())
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in content.items()})


def shares_around(batch: int) -> tuple[int, ...]:
    """Samples a rank and step to measure: smaller micro-batches, one, and two."""
    return tuple(sorted({max(1, batch // 4), max(1, batch // 2), batch, 2 * batch}))
