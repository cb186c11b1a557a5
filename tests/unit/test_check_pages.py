"""Every check has a page that says what, why, by which threshold, from where, and how it can be wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ryzen_mpi.cluster.phases import PHASES
from ryzen_mpi.validation.registry import all_checks
from ryzen_mpi.validation.thresholds import SETS, load_rules

PAGES = Path(__file__).parents[2] / "docs/checks"
HEADINGS = ["## What", "## Why", "## Threshold", "## Source", "## How it can be wrong"]


@pytest.mark.parametrize("name", all_checks())
def test_a_check_has_its_page(name):
    lines = (PAGES / f"{name}.md").read_text().splitlines()
    assert lines[0].startswith(f"# {name}: ") and len(lines[0]) < 121
    assert [line for line in lines if line.startswith("## ")] == HEADINGS
    empty = [a for a, b in zip(lines, [*lines[1:], ""], strict=True) if a.startswith("## ") and not b.strip()]
    assert not empty, empty


def test_there_is_no_page_without_a_check():
    assert {page.stem for page in PAGES.glob("*.md")} - {"README"} <= set(all_checks())


def test_listing_the_checks_imports_nothing_heavy():
    code = (
        "from ryzen_mpi.validation.registry import all_checks; all_checks()\nimport sys; print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "mpi4py.MPI", "h5py", "scipy", "rich", "pydantic", "numpy", "psutil", "matplotlib"}
    assert not set(done.stdout.split()) & heavy


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("which", SETS)
def test_every_figure_that_is_judged_is_named_on_its_page(phase, which):
    for check, figures in load_rules(phase, which).thresholds.items():
        page = (PAGES / f"{check}.md").read_text()
        assert not [figure for figure in figures if f"`{figure}`" not in page], check
