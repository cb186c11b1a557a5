"""The rooms stand in one order: an import points down or stays in its own folder, and what must be light is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ryzen_mpi"

# top to bottom; rooms that are planned and not built yet have their place already (DESIGN.md)
FLOORS = (
    *("__main__", "cli", "commands", "supervise", "train", "finish", "startup"),
    *("watch", "report", "validation", "scaling", "supervisor", "health"),
    *("training", "bench", "metrics", "data", "model", "comm", "cluster"),
    *(
        "settings",
        "config",
        "rundir",
        "sealing",
        "figures",
        "console",
        "beacon",
        "processor",
        "units",
        "errors",
        "__init__",
    ),
)
HEAVY = {"torch", "mpi4py.MPI", "h5py", "scipy", "tokenizers", "rich", "pydantic", "numpy", "psutil", "starlette"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, typing_only: bool) -> Iterator[str]:
    """Modules of the package that `path` imports, anywhere in the file; those for type checkers on request."""
    tree = ast.parse(path.read_text())
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not typing_only
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            named = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in named:
            package, _, rest = name.partition(".")
            if package == "ryzen_mpi":  # `rest` may end in what is no module but a name in one
                yield rest if rest in MODULES else rest.rpartition(".")[0] or "__init__"


def test_every_module_has_a_floor():
    assert {name.partition(".")[0] for name in MODULES} <= set(FLOORS)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_or_stay_in_the_folder(name):
    room = name.partition(".")[0]
    for target in imports(MODULES[name], typing_only=True):
        other = target.partition(".")[0]
        assert other == room or FLOORS.index(other) > FLOORS.index(room), f"{name} imports {target}"


def test_modules_import_one_another_in_no_circle():
    graph = {name: set(imports(path, typing_only=False)) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")


def modules_after(code: str) -> set[str]:
    """What a fresh Python has imported after `code`."""
    listing = "\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + listing], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def helped(module: str, attribute: str) -> str:
    return f"from {module} import {attribute} as c\ntry: c(['--help'])\nexcept SystemExit as e: assert not e.code"


@pytest.mark.parametrize(
    "code", [helped("ryzen_mpi.cli", "group"), helped("ryzen_mpi.train", "command")], ids=["ryzen-mpi", "train"]
)
def test_help_imports_nothing_heavy(code):
    assert not modules_after(code) & HEAVY


def test_nothing_of_cluster_imports_torch_or_starts_mpi():
    rooms = [name for name in MODULES if name.startswith("cluster")]
    loaded = modules_after("".join(f"import ryzen_mpi.{name}\n" for name in rooms))
    assert not loaded & {"torch", "mpi4py.MPI"}


def test_reading_settings_imports_neither_torch_nor_numpy():
    assert not modules_after("from ryzen_mpi.settings import load_settings; load_settings()") & {"torch", "numpy"}
