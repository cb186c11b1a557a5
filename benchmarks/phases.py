"""The phases validated whole with short durations: every check, how long it took, and what the gate says of it.

    python benchmarks/phases.py [--save]                     # phase 1, on this machine
    python benchmarks/phases.py --lab 2a 2b 2c [--save]      # on the hosts of the test lab (tests/lab/README.md)
    python benchmarks/phases.py --lab 2a --results DIR --only gloo,soak [--save]     # these again, the rest as in DIR

The lab's hosts share the cores of one machine: its figures show that every check works on several nodes, and what a
gate says of a machine that is none of a phase. A quarter of an hour for phase 1 on two cores, twice that and more for
one of the lab; on an idle machine only. Each phase is kept as soon as it is done, beside those kept before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common

REPO = Path(__file__).parents[1]
NODES = {"2a": 2, "2b": 3, "2c": 4}
SHORT = ("--duration", "60s", "--option", "seeds=4")


def here(phase: str) -> dict[str, Any]:
    """Phase `phase` on this machine: seconds by check, and the gate's verdict. SystemExit where it left none."""
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "ryzen_mpi"]
        subprocess.run([*program, "validate", phase, "--out", folder, *SHORT])
        results = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("results/*.json"))]
        gate = subprocess.run([*program, "gate", phase, "--results", folder, "--json"], stdout=subprocess.PIPE)
    if not results:
        sys.exit("no check has left a result")
    seconds = {result["check"]: round(result["ended"] - result["began"], 1) for result in results}
    return {"seconds": seconds, "verdict": json.loads(gate.stdout)}


def in_lab(phases: list[str], only: str, results: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each phase and the same of it on the lab's hosts, with the status of every check; `only`: names, "" for all."""
    sys.path.append(str(REPO))  # for `tests.lab`, which is no installed package
    from tests.lab.cluster import Cluster
    from tests.lab.validating import SHORT, validate

    words = (*SHORT, "--only", only) if only else SHORT
    with Cluster() as lab:
        for phase in phases:
            done = validate(lab, phase, NODES[phase], *words, kept=results and results / phase)
            print(done.said, flush=True)
            statuses = {name: result["status"] for name, result in done.results.items()}
            yield phase, {"seconds": done.seconds(), "statuses": statuses, "verdict": done.verdict}


def keep(phase: str, figures: dict[str, Any]) -> Path:
    """Writes the figures of one of the lab's phases, with machine and date, beside those of the others."""
    path = common.RESULTS / "phases-lab.json"
    phases = json.loads(path.read_text())["phases"] if path.exists() else {}
    phases[phase] = {"when": time.strftime("%Y-%m-%d %H:%M"), "machine": common.machine(), **figures}
    return common.save("phases-lab", {"phases": dict(sorted(phases.items()))})


def tell(phase: str, figures: dict[str, Any]) -> None:
    rows = [row["verdict"] for row in figures["verdict"]["rows"]]
    counts = ", ".join(f"{rows.count(word)} {word}" for word in sorted(set(rows)))
    print(f"phase {phase}: {figures['verdict']['verdict']}; {len(figures['seconds'])} checks, thresholds: {counts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", nargs="+", choices=list(NODES), metavar="PHASE", help=f"of {', '.join(NODES)}")
    parser.add_argument("--only", default="", metavar="CHECK,...", help="of the lab's phases, these checks")
    parser.add_argument("--results", type=Path, metavar="DIR", help="of the lab's phases: go on with what it holds")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    options = parser.parse_args()
    found = in_lab(options.lab, options.only, options.results) if options.lab else [("1", here("1"))]
    for phase, figures in found:
        tell(phase, figures)
        if options.save:
            kept = keep(phase, figures) if options.lab else common.save("phase1", figures)
            print(f"kept in {kept.relative_to(REPO)}", flush=True)


if __name__ == "__main__":
    main()
