"""Measuring a calibration: launches of one and of two ranks in turn, on this machine or in the allocation it is in."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ryzen_mpi.cluster.topology import read_memory, read_topology
from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling.calibration import Calibration, relevant
from ryzen_mpi.scaling.launch import Nodes, launch
from ryzen_mpi.scaling.request import PARTS, Request, shares_around
from ryzen_mpi.settings import load_settings

LIMIT_S = 1800.0
LAUNCHES, ROUNDS, STEPS = 3, 6, 3
PROBE = "ryzen_mpi.scaling.probe"


def probe(ranks: int, request: Request, nodes: Nodes, per_node: int, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """One launch's answer. Local. Raises UserError where it did not give one."""
    with tempfile.TemporaryDirectory(dir=request.folder, prefix="probe-") as folder:
        path, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        replace(request, answer=str(answer)).write(path)
        ended = launch(ranks, ("-m", PROBE, str(path)), limit_s, nodes, per_node, {"OMP_NUM_THREADS": "1"})
        if not answer.is_file():
            how = f"did not end in {limit_s:g} s" if ended.timed_out else f"ended with code {ended.code}"
            raise UserError(f"the launch on {ranks} ranks {how}", ended.tail())
        return json.loads(answer.read_text())


def calibrate(
    config: str,
    overrides: Sequence[str],
    folder: Path,
    per_node: int = 4,
    launches: int = LAUNCHES,
    rounds: int = ROUNDS,
    steps: int = STEPS,
    nodes: Nodes | None = None,
    failures: Mapping[str, Any] | None = None,
    shares: Sequence[int] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """A calibration for `per_node` ranks a node, from `launches` launches each of one and of two ranks. Local.

    In an allocation of several nodes also from as many of two ranks on two nodes, and only so for one rank a node.
    `shares`: samples a rank and step that are going to be predicted, measured on one rank beside the usual sizes.
    `folder`: where probes and their checkpoints are written; all nodes must see it. Raises UserError.
    """
    nodes, settings = nodes or Nodes(), load_settings(config, overrides)
    cores = len(read_topology().cores)
    threads = settings.hardware.num_threads or max(1, cores // per_node)
    found: list[dict[str, Any]] = []
    plan = [(1, 1, ("compute", "checkpoint"))]
    if per_node > 1 or nodes.count == 1:
        plan.append((2, 2, tuple(part for part in PARTS if part != "checkpoint")))
    if nodes.count > 1:
        plan.append((2, 1, ("compute", "together", "messages", "compression")))
    for _ in range(launches):
        for ranks, each, parts in plan:
            tell(
                f"launch {len(found) + 1} of {launches * len(plan)}: {ranks} ranks"
                + (", apart" if each < ranks else "")
            )
            sizes = tuple(sorted({*shares_around(settings.training.batch_size), *shares})) if ranks == 1 else ()
            asked = Request(config, tuple(overrides), threads, rounds, steps, parts, sizes, str(folder), "")
            found.append(probe(ranks, asked, nodes, each))
    if threads != cores:
        tell(f"one rank with all {cores} threads")
        asked = Request(config, tuple(overrides), cores, rounds, steps, ("compute",), (), str(folder), "")
        found.append(probe(1, asked, nodes, 1))
    return assemble(settings, threads, cores, found, failures)


def assemble(
    settings: Settings,
    threads: int,
    cores: int,
    launches: Sequence[Mapping[str, Any]],
    failures: Mapping[str, Any] | None = None,
) -> Calibration:
    """The calibration that answers of launches make up. Local: asks for this node's memory."""
    memory = read_memory().available_bytes
    return Calibration(
        time.time(), launches[0]["machine"], relevant(settings), threads, cores, memory, tuple(launches), None, failures
    )


def checkpoint(calibration: Calibration) -> tuple[float, int] | None:
    """(seconds, bytes) of writing a checkpoint, median over launches; None where it was not measured."""
    if calibration.parameters is not None:
        given = calibration.parameters.checkpoint_s
        return None if given is None else (given.value, 0)
    rows = [launch["checkpoint"] for launch in calibration.launches if "checkpoint" in launch]
    if not rows:
        return None
    return float(np.median([np.median(row["s"]) for row in rows])), int(rows[0]["bytes"])
