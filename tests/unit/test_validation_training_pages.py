"""The checks of training and their pages, and that knowing them costs nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ryzen_mpi.validation.registry import find

PAGES = Path(__file__).parents[2] / "docs/checks"
HEADINGS = ["What", "Why", "Threshold", "Source", "How it can be wrong"]
CHECKS = {
    "gradient_sync": ("E4", "ranks"),
    "sync_accuracy": ("E4", "ranks"),
    "silent_corruption": ("E4", "ranks"),
    "convergence": ("E5", "driver"),
    "convergence_wide": ("E12", "driver"),
    "accumulation": ("E12", "ranks"),
    "soak": ("E6", "driver"),
    "reliability": ("E11", "driver"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_is_known_with_its_requirement_and_its_place(name):
    check = find(name)
    assert (*check.ids, check.where) == CHECKS[name] and check.about and check.limit_s > 0


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_has_a_page_with_its_headings_and_figures_that_exist(name):
    text = (PAGES / f"{name}.md").read_text()
    assert re.match(rf"# {name}: \S.*\n", text) and re.findall(r"^## (.+)$", text, re.M) == HEADINGS
    assert all(len(part.split()) >= 15 for part in re.split(r"^## .+$", text, flags=re.M)[1:])
    thresholds = re.search(r"## Threshold\n(.*?)\n## ", text, re.S)[1]
    judged = re.findall(r"`([a-z_0-9]+)\s*(?:[<>]=|<|=|`)", thresholds)
    source = "".join(path.read_text() for path in (PAGES.parents[1] / "ryzen_mpi/validation/checks").glob("*.py"))
    known = {word.partition("{")[0] for word in re.findall(r'"([a-z_0-9{}]+)"', source)}
    missing = [
        word for word in judged if word not in known | {"sync_accuracy"} and word.rstrip("0123456789") not in known
    ]
    assert not missing, missing


def test_knowing_the_checks_imports_nothing_heavy():
    heavy = {"torch", "numpy", "scipy", "h5py", "mpi4py", "pydantic", "psutil", "matplotlib"}
    code = "import sys; from ryzen_mpi.validation.registry import all_checks; all_checks(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ryzen_mpi.validation.checks.soak" in done.stdout and not heavy & set(done.stdout.split())
