"""The figures that are asked of training big models on small nodes, from what is kept in benchmarks/results/.

    python benchmarks/figures.py

Prints a table: what was asked, what `peers.py --save` has measured, and for speeds the most that could be: how many
times as fast as the peer a step would be that does nothing but the model's matrix products, at the speed that the same
cores reached in the same run.
"""

from __future__ import annotations

import json

import common

Row = tuple[str, str, str, float]
SPEED, UPDATE, MEMORY, SHARE = "times_as_fast", "update_times_as_fast", "memory_ratio", "ours_share_of_matmul"
ROWS: list[Row] = [
    ("scaling_benchmark, times as fast as plain DDP", "scaling, 2 ranks, plain-ddp", SPEED, 2.5),
    ("... as HF Accelerate", "scaling, 2 ranks, accelerate", SPEED, 2.0),
    ("... as Lightning Fabric", "scaling, 2 ranks, fabric", SPEED, 2.0),
    ("... as DeepSpeed, ZeRO 2", "scaling, 2 ranks, deepspeed", SPEED, 2.0),
    *(
        (f"98 million parameters, {ranks} ranks, times as fast as {text}", f"98m, {ranks} ranks, {peer}", SPEED, asked)
        for ranks in (2, 4)
        for text, peer, asked in (
            ("plain DDP", "plain-ddp", 1.4),
            ("FSDP2 as ZeRO 2", "fsdp2", 2.0),
            ("DeepSpeed, ZeRO 2", "deepspeed", 2.0),
            ("DDP with ZeroRedundancyOptimizer", "zero-redundancy", 1.7),
        )
    ),
    ("... memory, share of plain DDP's", "98m, 4 ranks, plain-ddp", MEMORY, 0.33),
    ("... memory, share of FSDP2's", "98m, 4 ranks, fsdp2", MEMORY, 0.55),
    ("... memory, share of DeepSpeed's", "98m, 4 ranks, deepspeed", MEMORY, 0.68),
    ("... optimiser step, times as fast as in DDP", "98m, 4 ranks, plain-ddp", UPDATE, 3.0),
    ("98 million parameters, 1024 tokens: share of the matmul speed", "98m-long, 2 ranks, plain-ddp", SHARE, 0.5),
]


def line(row: Row, comparisons: dict) -> str:
    """A line of the table. Pure."""
    text, name, key, asked = row
    found = comparisons.get(name, {})
    if key not in found:
        return f"| {text} | {asked:g} | {found.get('error', 'not measured').splitlines()[-1]} | | |"
    value, most = found[key], ""
    if isinstance(value, dict):
        said = f"{value['ratio']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
        value = value["ratio"]
        if key == SPEED:
            most = f"{value / found[SHARE]:.2f}"
    else:
        said = f"{value:.2f}"
    reached = value <= asked if key == MEMORY else value >= asked
    return f"| {text} | {asked:g} | {said} | {most} | {'yes' if reached else 'no'} |"


def main() -> None:
    kept = json.loads((common.RESULTS / "peers.json").read_text())
    print("| figure | asked | measured | at most | reached |\n|---|---|---|---|---|")
    print(*(line(row, kept["comparisons"]) for row in ROWS), sep="\n")


if __name__ == "__main__":
    main()
