"""`slurm/validate.sh` as a batch job of the lab, and what it left: for tests and for benchmarks/phases.py."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.cluster import Cluster
from tests.lab.jobs import REPO

WORDS = ("distributed.timeout_s=60",)
"""Up to 16 ranks start on this machine's few cores: they come to their first collectives far apart."""
SHORT = ("--duration", "30s", "--option", "steps=12", "--option", "repeats=2", "--option", "launches=2")
"""Every check, as short as it makes sense."""
LIMIT_S = 3600.0


@dataclass(frozen=True)
class Validated:
    """What became of a job: its last state, what it printed, sealed results by check, and the gate's verdict (JSON)."""

    state: str
    said: str
    results: dict[str, dict[str, Any]]
    verdict: dict[str, Any]

    def figure(self, check: str, name: str) -> float | None:
        figures = self.results[check]["findings"]["figures"]
        return next(each["value"] for each in figures if each["name"] == name)

    def seconds(self) -> dict[str, float]:
        """How long each check took."""
        return {name: round(result["ended"] - result["began"], 1) for name, result in self.results.items()}


def validate(
    lab: Cluster, phase: str, nodes: int, *words: str, name: str = "validation", kept: Path | None = None
) -> Validated:
    """Submits the job and waits for its end. `kept`: a folder of results to go on with, and to leave them in."""
    elsewhere = lab.shared / f"{name} {phase}"
    results = elsewhere / f"runs/validation-{phase}"
    elsewhere.mkdir(exist_ok=True)
    if kept is not None and kept.exists():
        shutil.copytree(kept, results, dirs_exist_ok=True)
    number = lab.sbatch(
        *(REPO / "slurm/validate.sh", phase, *words, *WORDS),
        options=(f"--nodes={nodes}", "--time=60:00"),
        cwd=elsewhere,
        env={"OMPI_MCA_mpi_yield_when_idle": "1"},  # the hosts share this machine's cores
    )
    job = lab.wait_job(number, timeout_s=LIMIT_S)
    said = (elsewhere / f"validate-{number}.out").read_text(errors="replace")
    if kept is not None:
        shutil.copytree(results, kept, dirs_exist_ok=True)
    found = [json.loads(path.read_text()) for path in sorted(results.glob("results/*.json"))]
    gate = lab.run("ctl", [str(REPO / "env/run"), "ryzen-mpi", "gate", phase, "--results", str(results), "--json"])
    return Validated(job.state, said, {each["check"]: each for each in found}, json.loads(gate.stdout))
