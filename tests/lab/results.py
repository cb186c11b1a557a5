"""The lab's table of scenarios: every test adds its rows, `python -m tests.lab table` makes the table of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.lab.jobs import LabJob

VARIABLE = "RYZEN_MPI_LAB_ROWS"
"""Names the file the rows are appended to, as JSON lines; without it they are dropped."""


def row(
    scenario: str, job: LabJob, record: dict | None = None, after: dict | None = None, same: bool | None = None, **more: object
) -> None:
    """Adds a scenario that was seen to pass.

    Args:
        record, after: the attempt that the fault ended, and the next one.
        same: whether the final parameters are those of the undisturbed run, bit for bit.
        more: further figures, shown as they are.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return
    found: dict[str, object] = {"scenario": scenario, "same": same, **more}
    if record is not None:
        found |= {"cause": record["cause"], "noticed_s": record["seen_s"], "ended_s": record["ended_s"]}
    if record is not None and after is not None:
        found |= {
            "repeated": max(0, record["step"] - after["resumed"]),
            "import_s": after["import_s"],
            "down_s": after["started"] + (after["first_step_s"] or 0.0) - record["started"] - record["seconds"],
            "ranks": [record["ranks"], after["ranks"]],
        }
    with Path(path).open("a") as file:
        file.write(json.dumps(found) + "\n")
