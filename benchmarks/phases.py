"""The phases validated whole with short durations: every check, how long it took, and what the gate says of it.

    python benchmarks/phases.py [--save]                     # phase 1, on this machine
    python benchmarks/phases.py --lab 2a 2b 2c [--save]      # on the hosts of the test lab (tests/lab/README.md)

The lab's hosts share the cores of one machine: its figures show that every check works on several nodes, and what a
gate says of a machine that is none of a phase. A quarter of an hour each on two cores; on an idle machine only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
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


def in_lab(phases: list[str]) -> dict[str, Any]:
    """The same of phases on the lab's hosts, by phase."""
    sys.path.append(str(REPO))  # for `tests.lab`, which is no installed package
    from tests.lab.cluster import Cluster
    from tests.lab.validating import SHORT, validate

    found = {}
    with Cluster() as lab:
        for phase in phases:
            done = validate(lab, phase, NODES[phase], *SHORT)
            print(done.said, flush=True)
            statuses = {name: result["status"] for name, result in done.results.items()}
            found[phase] = {"seconds": done.seconds(), "statuses": statuses, "verdict": done.verdict}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", nargs="+", choices=list(NODES), metavar="PHASE", help=f"of {', '.join(NODES)}")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    options = parser.parse_args()
    found = in_lab(options.lab) if options.lab else here("1")
    for name, one in found.items() if options.lab else [("1", found)]:
        rows = [row["verdict"] for row in one["verdict"]["rows"]]
        counts = ", ".join(f"{rows.count(word)} {word}" for word in sorted(set(rows)))
        print(f"phase {name}: {one['verdict']['verdict']}; {len(one['seconds'])} checks, thresholds: {counts}")
    if options.save:
        kept = common.save("phases-lab" if options.lab else "phase1", {"phases": found} if options.lab else found)
        print(f"kept in {kept.relative_to(REPO)}")


if __name__ == "__main__":
    main()
