"""What the benchmarks share: starting themselves under mpirun, the machine they ran on, where results go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ryzen_mpi.bench.machine import machine

RESULTS = Path(__file__).parent / "results"


def relaunch(ranks: int) -> None:
    """Starts this script again on `ranks` ranks where it was started on none, and ends with its exit code."""
    if "OMPI_COMM_WORLD_RANK" in os.environ or ranks == 1:
        return
    command = ["mpirun", "-np", str(ranks), sys.executable, *sys.argv]
    sys.exit(subprocess.run(command).returncode)


def ratio(slow_s: Sequence[float], fast_s: Sequence[float], rounds: int) -> dict[str, float]:
    """Median of the per-round ratios of median times, slow over fast, with its 95 % interval.

    Rounds lie minutes apart at most and both sides of a round seconds: what disturbs the machine disturbs both.
    """
    import numpy as np

    from ryzen_mpi.figures import median

    slow, fast = (np.array(values).reshape(rounds, -1) for values in (slow_s, fast_s))
    figure = median(np.median(slow, axis=1) / np.median(fast, axis=1))
    return {"ratio": figure.value, "low": figure.low, "high": figure.high, "rounds": rounds}


def rate(seconds: Sequence[float], samples: int) -> dict[str, float]:
    """Samples a second: the median with its 95 % interval."""
    from dataclasses import asdict

    from ryzen_mpi.figures import median

    return asdict(median([samples / s for s in seconds]))


def save(name: str, figures: dict[str, Any]) -> Path:
    """Writes figures with machine and date to benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"when": time.strftime("%Y-%m-%d"), "machine": machine(), **figures}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def disturbance() -> float:
    """Seconds this process has waited for a core since it started, from the kernel's run-queue delay. Local."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
