"""False alarms: checks repeated on a machine on which nothing is wrong, and how many said that something is.

    python benchmarks/healthy.py [--repeats 20] [--ranks 2] [--check NAME...] [--save]

An alarm is a problem that a check reports, anything it holds impossible, a check that did not work, and an unmet
threshold of exactness (`EXACT`). Thresholds of size and speed are left out: they say what the machine is.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import common

REPO = Path(__file__).parents[1]
CHECKS = ("openmpi", "gloo", "all_pairs", "gradient_sync", "silent_corruption", "accumulation", "memory", "affinity")
EXACT = {
    "gradient_sync": None,
    "silent_corruption": None,
    "accumulation": None,
    "gloo": ("allreduce_wrong",),
    "openmpi": ("allreduce_wrong",),
    "memory": ("wrong_words",),
    "all_pairs": ("connected",),
    "affinity": ("ranks_not_where_bound",),
}
"""Figures of which a threshold may not be missed, by check; None: all of them."""


def main() -> None:
    from ryzen_mpi.cluster.phases import phase
    from ryzen_mpi.scaling.launch import find_nodes
    from ryzen_mpi.validation import store
    from ryzen_mpi.validation.registry import find
    from ryzen_mpi.validation.runner import Plan, judge_rows, run_all
    from ryzen_mpi.validation.thresholds import load_rules

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--check", nargs="+", default=list(CHECKS))
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    options = parser.parse_args()
    rules = load_rules("1")
    found = {name: {"n": 0, "alarms": []} for name in options.check}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            campaign = store.create(Path(folder), "1")
            checks = [find(name) for name in options.check]
            plan = Plan(phase("1"), rules, checks, options.ranks, find_nodes(), (), {"bytes_per_rank": 64 << 20})
            for result in run_all(plan, campaign, lambda line: None):
                named = EXACT.get(result.check, ())
                rows = [row for row in judge_rows(result, rules) if named is None or row.figure in named]
                alarms = [*result.findings.problems, *result.findings.impossible]
                alarms += [f"{row.figure}: {row.reason}" for row in rows if row.means in ("NO-GO", "INVALID")]
                alarms += [] if result.status in ("measured", "not measurable") else [result.message]
                found[result.check]["n"] += 1
                found[result.check]["alarms"] += alarms
    for name, row in found.items():
        print(f"{name:20} {len(row['alarms'])} alarms in {row['n']}  {'; '.join(row['alarms'])[:200]}")
    if options.save:
        kept = common.save("healthy", {"ranks": options.ranks, "checks": found})
        print(f"kept in {kept.relative_to(REPO)}")


if __name__ == "__main__":
    main()
