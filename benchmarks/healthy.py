"""False alarms: checks repeated on a machine on which nothing is wrong, and how many said that something is.

    python benchmarks/healthy.py [--repeats 20] [--ranks 2] [--check NAME...] [--save]

An alarm is a problem that a check reports, anything it holds impossible, a check that did not work, and an unmet
threshold of exactness (`EXACT`). Thresholds of size and speed are left out: they say what the machine is.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import common

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


def repeat(names: Sequence[str], ranks: int) -> Iterator[tuple[str, list[str]]]:
    """Every check once, in a results folder of its own: its name, and what it said that is wrong."""
    from ryzen_mpi.cluster.phases import phase
    from ryzen_mpi.scaling.launch import find_nodes
    from ryzen_mpi.validation import store
    from ryzen_mpi.validation.registry import find
    from ryzen_mpi.validation.runner import Plan, judge_rows, run_all
    from ryzen_mpi.validation.thresholds import load_rules

    rules = load_rules("1")
    with tempfile.TemporaryDirectory() as folder:
        campaign = store.create(Path(folder), "1")
        checks = [find(name) for name in names]
        plan = Plan(phase("1"), rules, checks, ranks, find_nodes(), (), {"bytes_per_rank": 64 << 20})
        for result in run_all(plan, campaign, lambda line: None):
            exact = EXACT.get(result.check, ())
            rows = [row for row in judge_rows(result, rules) if exact is None or row.figure in exact]
            alarms = [*result.findings.problems, *result.findings.impossible]
            alarms += [f"{row.figure}: {row.reason}" for row in rows if row.means in ("NO-GO", "INVALID")]
            alarms += [] if result.status in ("measured", "not measurable") else [result.message]
            yield result.check, alarms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--check", nargs="+", default=list(CHECKS))
    parser.add_argument("--save", action="store_true", help="keep the result so far in benchmarks/results/")
    options = parser.parse_args()
    found = {name: {"n": 0, "alarms": []} for name in options.check}
    for number in range(options.repeats):
        for name, alarms in repeat(options.check, options.ranks):
            found[name]["n"] += 1
            found[name]["alarms"] += alarms
        total = sum(len(row["alarms"]) for row in found.values())
        print(f"{number + 1} of {options.repeats}: {total} alarms so far", flush=True)
        if options.save:
            common.save("healthy", {"ranks": options.ranks, "checks": found})
    for name, row in found.items():
        print(f"{name:20} {len(row['alarms'])} alarms in {row['n']}  {'; '.join(row['alarms'])[:200]}")


if __name__ == "__main__":
    main()
