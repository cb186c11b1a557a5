"""The lab's table of scenarios: every test adds its rows, `python -m tests.lab table` runs them all and keeps it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.lab.jobs import LabJob

VARIABLE = "RYZEN_MPI_LAB_ROWS"
"""Names the file the rows are appended to, as JSON lines; without it they are dropped."""
README = Path(__file__).with_name("README.md")
MARK = "<!-- table: made by python -m tests.lab table -->"
COLUMNS = ("scenario", "ranks", "noticed", "training again", "of it imports", "steps repeated", "same bits", "remark")


def row(
    scenario: str,
    job: LabJob,
    record: dict | None = None,
    after: dict | None = None,
    same: bool | None = None,
    **more: object,
) -> None:
    """Adds a scenario that was seen to pass.

    Args:
        record, after: the attempt that the fault ended, and the next one.
        same: whether the final parameters are those of the undisturbed run, bit for bit.
        more: further figures, which replace those of the records; `remark`, `outcome`, `attempts`, `nodes` are shown.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return
    found: dict[str, object] = {"scenario": scenario, "same": same}
    if record is not None:
        found |= {"cause": record["cause"], "noticed_s": record["seen_s"], "ranks": record["ranks"]}
    if record is not None and after is not None and after["resumed"] >= 0:  # else it was broken before it trained
        began = record["started"] + record["seconds"] - record["ended_s"] - (record["seen_s"] or 0.0)
        found |= {
            "ranks_after": after["ranks"],
            "repeated": max(0, record["step"] - after["resumed"]),
            "import_s": after["import_s"],
            "down_s": after["started"] + (after["first_step_s"] or 0.0) - began,
        }
    with Path(path).open("a") as file:
        file.write(json.dumps(found | more) + "\n")


def line(found: dict) -> str:
    """A row as Markdown; figures that a scenario does not have stay empty."""

    def seconds(name: str) -> str:
        return f"{found[name]:.1f} s" if isinstance(found.get(name), (int, float)) else ""

    ranks = str(found.get("ranks", ""))
    if found.get("ranks_after", found.get("ranks")) != found.get("ranks"):
        ranks += f" -> {found['ranks_after']}"
    same = {True: "yes", False: "no"}.get(found.get("same"), "")
    remarks = [str(found[name]) for name in ("remark", "outcome") if name in found]
    remarks += [f"{name} {found[name]}" for name in ("attempts", "nodes") if name in found]
    cells = (
        found["scenario"],
        ranks,
        seconds("noticed_s"),
        seconds("down_s"),
        seconds("import_s"),
        str(found.get("repeated", "")),
        same,
        ", ".join(remarks),
    )
    return f"| {' | '.join(cells)} |"


def make(words: list[str]) -> int:
    """Runs the scenarios (`words`: further arguments for pytest) and puts the table into the README; pytest's code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.touch()
        command = [sys.executable, "-m", "pytest", "-m", "", str(Path(__file__).parent), *words]
        code = subprocess.run(command, env=os.environ | {VARIABLE: str(path), "CI": "true"}).returncode
        rows = [json.loads(text) for text in path.read_text().splitlines()]
    if code:
        print("not all passed: the table in the README stays as it is", file=sys.stderr)
        print("\n".join(map(line, rows)))
        return code
    write(rows)
    return 0


def write(rows: list[dict]) -> None:
    """Puts the table of `rows` into the README."""
    from ryzen_mpi.bench.machine import machine

    facts = machine()
    when = f"{time.strftime('%Y-%m-%d')}, {facts['cpu']}, {facts['cores']} cores: {len(rows)} scenarios."
    head = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    before, _, _ = README.read_text().partition(MARK)
    README.write_text("\n".join([before.rstrip(), "", MARK, "", when, "", *head, *map(line, rows), ""]))
