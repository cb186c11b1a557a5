"""A prediction put to the test: made from a calibration, written down, and only then compared with what is measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.scaling.calibrate import probe
from ryzen_mpi.scaling.calibration import Calibration
from ryzen_mpi.scaling.draws import draw
from ryzen_mpi.scaling.launch import Nodes
from ryzen_mpi.scaling.outlook import Question, link_of
from ryzen_mpi.scaling.request import Request
from ryzen_mpi.scaling.simulate import Cluster, predict, traffic
from ryzen_mpi.settings import load_settings


def predicted(
    calibration: Calibration,
    config: str,
    modes: dict[str, Sequence[str]],
    ranks: Sequence[int],
    per_node: int,
) -> list[dict[str, Any]]:
    """What the simulator says: a row for every number of ranks and mode, JSON-able. Local.

    Args:
        modes: settings by name of the mode.
        per_node: ranks of a full node.
    """
    settings = {mode: load_settings(config, words) for mode, words in modes.items()}
    some = next(iter(settings.values()))
    draws = draw(calibration, traffic(some, 1, 1)[0])
    link = link_of(Question(tuple(ranks)), calibration, draws[0])[0]
    floating = some.hardware.bind == "none"
    node = (calibration.cores, calibration.threads, calibration.memory_bytes, link, floating, calibration.one_machine)
    rows = []
    for count in ranks:
        for mode, chosen in settings.items():
            found = predict(draws, chosen, Cluster(per_node, *node), count)
            rows.append(
                {
                    "mode": mode,
                    "ranks": count,
                    "share": found.global_batch // count,
                    "predicted": asdict(found.throughput),
                    "parts": found.parts,
                    "notes": list(found.notes),
                    "at": time.time(),
                    "launches": [],
                }
            )
    return rows


def write_down(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Keeps predictions before anything of them is measured."""
    write_atomic(path, json.dumps(list(rows), indent=1) + "\n")


def measure(
    rows: Sequence[dict[str, Any]],
    request: Request,
    nodes: Nodes,
    per_node: Callable[[int], int],
    launches: int,
) -> Iterator[str]:
    """Adds to every row the samples/s of each launch that trains what it predicts. Local. Raises UserError.

    `request`: what a launch is asked, with the folder; its parts and shares are filled in here. Yields a line a launch.
    """
    for ranks in sorted({row["ranks"] for row in rows}):
        mine = [row for row in rows if row["ranks"] == ranks]
        asked = replace(request, parts=("together",), shares=tuple(sorted({row["share"] for row in mine})))
        for number in range(launches):
            answer = probe(ranks, asked, nodes, per_node(ranks))
            for row in mine:
                turn_s = answer["cells"][f"together:{row['share']}"]["turn_s"]
                row["launches"].append(ranks * row["share"] * len(turn_s) / sum(turn_s))
            yield f"measured {number + 1} of {launches} on {ranks} ranks"


def pace(calibration: Calibration, request: Request, nodes: Nodes, batch: int) -> float:
    """How fast a rank alone is now, times as fast as when the calibration was measured. Local. Raises UserError.

    A machine that others use too changes from minute to minute; a launch of one rank beside every other one tells an
    error of the model from a change of the machine. `batch`: samples of the step that is compared, a calibrated size.
    """
    asked = replace(request, parts=("compute",), shares=(batch,))
    before = [each for each in calibration.launches if each["ranks"] == 1 and each["threads"] == calibration.threads]
    launches = (probe(1, asked, nodes, 1), *before)
    now_s, *before_s = (median(np.ravel(each["cells"][f"alone:{batch}"]["rank_s"])) for each in launches)
    return float(median(before_s) / now_s)


def compared(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the measured median, the error, and whether it lies in the 95 % band of a launch. Pure."""
    value, band = median(row["launches"]), row["predicted"]
    within = bool(band["low"] <= value <= band["high"])
    return row | {"measured": value, "error": band["value"] / value - 1, "within": within}
