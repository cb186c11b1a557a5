"""What the driver tells a launch, as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ryzen_mpi.rundir import write_atomic


@dataclass(frozen=True)
class Spec:
    """What the driver tells a launch; JSON.

    Attributes:
        number, repeat, mode, ranks: see `record.Launch`.
        global_batch, steps, warmup_steps, threads: what to do; threads a rank, on as many cores.
        profile, overrides: the settings.
        data: folder of the prepared corpus, the same for all launches.
        answer: file to write the launch to.
    """

    number: int
    repeat: int
    mode: str
    ranks: int
    global_batch: int
    steps: int
    warmup_steps: int
    threads: int
    profile: str
    overrides: tuple[str, ...]
    data: str
    answer: str

    def write(self, path: Path) -> None:
        write_atomic(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Spec:
        values = json.loads(path.read_text())
        return cls(**values | {"overrides": tuple(values["overrides"])})
