"""Every check has a page that says what, why, how much, from where, and how it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ryzen_mpi.cluster.phases import PHASES
from ryzen_mpi.validation.registry import all_checks
from ryzen_mpi.validation.thresholds import SETS, load_rules

PAGES = Path(__file__).parents[2] / "docs" / "checks"
HEADINGS = ["## What", "## Why", "## Threshold", "## Source", "## How it can be wrong"]


@pytest.mark.parametrize("name", all_checks())
def test_a_check_has_a_page_with_all_five_parts(name):
    lines = (PAGES / f"{name}.md").read_text().splitlines()
    assert lines[0].startswith(f"# {name}: ")
    assert [line for line in lines if line.startswith("## ")] == HEADINGS
    assert all(text.strip() for text in "\n".join(lines).split("\n## ")[1:])


def test_no_page_is_left_of_a_check_that_is_gone():
    assert {path.stem for path in PAGES.glob("*.md")} == set(all_checks())


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("which", SETS)
def test_every_figure_that_is_judged_is_named_on_its_page(phase, which):
    for check, figures in load_rules(phase, which).thresholds.items():
        page = (PAGES / f"{check}.md").read_text()
        assert not [figure for figure in figures if f"`{figure}`" not in page], check
