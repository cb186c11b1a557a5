"""Launches for tests: a set that was really measured, made-up ones with known answers, and changes to both."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from ryzen_mpi.scaling.record import Launch, parse
from ryzen_mpi.sealing import digest

RECORDED = Path(__file__).parent / "golden" / "scaling_launches.json"
CORE_MHZ = 2600.0
MACHINE = {"cpu": "made up"}


def recorded() -> list[dict[str, Any]]:
    """Five repeats of strong and weak scaling at 1 and 2 ranks, as a real `ryzen-mpi scale` kept them.

    Two cores that others used too; the name of the kernel is the only thing that was changed.
    """
    return json.loads(RECORDED.read_text())


def changed(values: list[dict[str, Any]], place: int, **fields: Any) -> list[dict[str, Any]]:
    """The set with fields of one launch replaced, and its hash made to fit: a forger would do that too."""
    forged = copy.deepcopy(values)
    forged[place] |= fields
    return sealed(forged)


def sealed(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each | {"sha256": digest(each)} for each in values]


def place_of(values: list[dict[str, Any]], mode: str, ranks: int, repeat: int = 0) -> int:
    wanted = (mode, ranks, repeat)
    return next(i for i, each in enumerate(values) if (each["mode"], each["ranks"], each["repeat"]) == wanted)


def made(
    mode: str,
    computation_s: list[float],
    measured_s: float,
    repeat: int = 0,
    number: int | None = None,
    **fields: Any,
) -> Launch:
    """A launch whose ranks computed for `computation_s` and were blocked for the rest of `measured_s`."""
    ranks = len(computation_s)
    number = number or 1 + 10 * repeat + ranks + (5 if mode == "weak" else 0)
    batch, began = 64 if mode == "strong" else 16 * ranks, 1e9 + 1000.0 * number
    values = {
        "number": number,
        "repeat": repeat,
        "mode": mode,
        "ranks": ranks,
        "nodes": 1,
        "threads": [1] * ranks,
        "cpus": [[rank] for rank in range(ranks)],
        "rank_nodes": [0] * ranks,
        "began": began,
        "ended": began + measured_s + 5,
        "steps": 10,
        "warmup_steps": 2,
        "global_batch": batch,
        "samples": 10 * batch,
        "indices_sha256": f"all of {batch}",
        "rank_samples": [10 * batch // ranks] * ranks,
        "rank_indices_sha256": [f"shard {rank} of {batch}" for rank in range(ranks)],
        "duplicates": 0,
        "skipped_steps": 0,
        "measured_s": measured_s,
        "throughput": 10 * batch / measured_s,
        "rank_s": [measured_s] * ranks,
        "rank_computation_s": computation_s,
        "rank_communication_s": [measured_s - computed for computed in computation_s],
        "rank_began": [began + 3] * ranks,
        "rank_ended": [began + 3 + measured_s] * ranks,
        "step_s": [measured_s / 10] * 12,
        "losses": [4 - 0.1 * step for step in range(12)],
        "gradient_norms": [1 + 0.1 * step for step in range(12)],
        "waited_share": 0.0,
        "clock_mhz": CORE_MHZ,
        "cache_bytes": {"2": 1 << 20, "3": 16 << 20},
        "working_set_bytes": 64 << 20,
        "dtype": "float32",
        "compression": "none",
        "profile": "scaling_benchmark",
        "overrides": [],
        "settings_sha256": "settings",
        "machine": MACHINE,
        "rank_machines": [digest(MACHINE)] * ranks,
    } | fields
    return parse(values | {"sha256": digest(values)})


def many(mode: str, times: dict[int, float], repeats: int = 5, **fields: Any) -> list[Launch]:
    """Launches of all repeats whose ranks compute all of the time given for each number, with a spread of 1 %."""
    spread = [1.0, 0.995, 1.004, 0.998, 1.006, 1.002, 0.997]
    found = []
    for repeat in range(repeats):
        for ranks, seconds in times.items():
            factor = spread[repeat % len(spread)] * (1 + 0.001 * repeat * (ranks > 1))
            found.append(made(mode, [seconds * factor] * ranks, seconds * factor, repeat, **fields))
    return found
