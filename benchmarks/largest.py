"""The largest model that trains on this machine: with plain DDP, with FSDP2 as ZeRO 2, and here.

    python benchmarks/largest.py [--ranks 4] [--side ours plain-ddp fsdp2] [--save]

Layers are added to one shape until three steps no longer come to their end, then the gap is halved until it is below a
tenth. Every size is really trained, by the sides of `peers.py`, one after the other. A job that takes more than the
machine has is killed by the kernel: it offers itself as the first to be killed, but nothing else should run here.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import common
from peer_sides.job import Job, SideError
from peers import PEERS, launch_command

SHAPE = (
    "model.embedding_dim=1024 model.num_heads=16 model.feed_forward_dim=4096 model.seq_length=128 training.batch_size=1"
).split()
STEPS, FIRST_LAYERS, GROWTH, NEAR = 3, 8, 1.6, 1.1
KILL_FIRST = "1000"


def tried(side: str, layers: int, options: argparse.Namespace) -> dict:
    """What came of three steps of a model of `layers`: its parameters, seconds a step and memory; or why it ended."""
    settings = argparse.Namespace(case="98m", ranks=options.ranks, zero_stage=None)
    words = [*SHAPE, f"model.num_layers={layers}"]
    cores = len(os.sched_getaffinity(0))
    flags = [] if side == "ours" else ["--glibc-as-it-is"]
    row: dict = {"layers": layers}
    try:
        with Job(side, launch_command(side, "plain", settings, cores, *flags, *words), options.timeout) as job:
            row["parameters"] = job.ready["parameters"]
            row["step_s"] = job.ask(f"run {STEPS}")["seconds"][-1]
            row["pss_bytes"] = job.ask("memory")["Pss"]
    except SideError as error:
        row["error"] = [line for line in str(error).splitlines() if any(map(str.isalpha, line))][-1]
    print(f"  {side}, {layers} layers: " + (row.get("error") or f"{row['parameters'] / 1e6:.0f} million parameters, "
          f"{row['step_s']:.1f} s a step, {row['pss_bytes'] / 2**30:.1f} GiB"), flush=True)  # fmt: skip
    return row


def search(side: str, options: argparse.Namespace) -> list[dict]:
    """Everything that was tried for `side`, the largest that trained first."""
    rows, good, bad, layers = [], 0, None, FIRST_LAYERS
    while bad is None or bad > max(good + 1, good * NEAR):
        rows.append(tried(side, layers, options))
        if "error" in rows[-1]:
            bad = layers
        else:
            good = layers
        layers = round(good * GROWTH) if bad is None else (good + bad) // 2
    return sorted(rows, key=lambda row: ("error" in row, -row["layers"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--side", nargs="+", default=["plain-ddp", "fsdp2", "ours"], choices=["ours", *PEERS])
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a side may take to answer")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/largest.json")
    options = parser.parse_args()
    Path("/proc/self/oom_score_adj").write_text(KILL_FIRST)  # what is started from here inherits it
    found = {}
    for side in options.side:
        began = time.monotonic()
        found[side] = {"tried": search(side, options)}
        best = found[side]["tried"][0]
        if "error" in best:
            sys.exit(f"{side} trained nothing: {best['error']}")
        found[side] |= {"parameters": best["parameters"], "search_s": time.monotonic() - began}
        print(f"{side}: {best['parameters'] / 1e6:.0f} million parameters at {options.ranks} ranks", flush=True)
        if options.save:
            what = {"ranks": options.ranks, "shape": SHAPE, "sides": found}
            print(f"kept in {common.save('largest', what).relative_to(common.RESULTS.parent.parent)}")


if __name__ == "__main__":
    main()
