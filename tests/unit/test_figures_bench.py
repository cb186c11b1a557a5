"""benchmarks/figures.py: what it says of figures that were reached, missed, and never measured."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import figures

FOUND = {
    "times_as_fast": {"ratio": 1.5, "low": 1.4, "high": 1.6},
    "ours_share_of_matmul": 0.75,
    "memory_ratio": 0.4,
}


def said(key: str, asked: float, comparisons: dict) -> list[str]:
    return [cell.strip() for cell in figures.line(("what", "a", key, asked), comparisons).split("|")[1:-1]]


def test_a_speed_comes_with_its_interval_and_the_most_it_could_be():
    assert said(figures.SPEED, 1.4, {"a": FOUND}) == ["what", "1.4", "1.50 (1.40 to 1.60)", "2.00", "yes"]
    assert said(figures.SPEED, 2.5, {"a": FOUND})[-1] == "no"


def test_of_memory_less_is_better():
    assert said(figures.MEMORY, 0.33, {"a": FOUND}) == ["what", "0.33", "0.40", "", "no"]
    assert said(figures.MEMORY, 0.4, {"a": FOUND})[-1] == "yes"


def test_what_was_not_measured_is_not_a_figure():
    assert said(figures.SPEED, 2, {})[2:] == ["not measured", "", ""]
    assert said(figures.SPEED, 2, {"a": {"error": "Traceback\nno such module"}})[2:] == ["no such module", "", ""]


def test_every_row_names_a_comparison_that_peers_can_make():
    from peer_sides.cases import CASES, PEERS

    for _, name, *_ in figures.ROWS:
        case, ranks, peer = name.split(", ")
        assert case in CASES and peer in PEERS and ranks.endswith(" ranks")
