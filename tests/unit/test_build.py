"""setup.py builds what it should, with and without a compiler: wheels of a tiny copy, made with this environment."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path):
    """setup.py, and of the package only what its build looks at."""
    folder = tmp_path / "copy"
    comm = folder / "ryzen_mpi/comm"
    comm.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "ryzen_mpi/__init__.py", "ryzen_mpi/comm/__init__.py"):
        shutil.copy(REPO / name, folder / name)
    (comm / "kernel.c").write_text('#define Py_LIMITED_API 0x030A0000\n#include <Python.h>\n#include "part.h"\n')
    (comm / "part.h").write_text("PyMODINIT_FUNC PyInit__kernel(void) { return NULL; }\n")
    return folder


def setup_py(copy: Path, *words: str, **variables: str) -> str:
    """What `python setup.py WORDS` said, after it went well."""
    kept = {k: v for k, v in os.environ.items() if k not in ("CC", "CFLAGS", "LDSHARED", "RYZEN_MPI_WITHOUT_KERNEL")}
    done = subprocess.run(
        [sys.executable, "setup.py", *words],
        cwd=copy,
        env=kept | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def make_wheel(copy: Path, **variables: str) -> tuple[str, set[str], str]:
    """A wheel's tag, its files, and what was said."""
    said = setup_py(copy, "bdist_wheel", **variables)
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel.stem.split("-", 2)[2], set(zipfile.ZipFile(wheel).namelist()), said


def test_wheel_brings_a_kernel_for_every_python(copy):
    tag, files, _ = make_wheel(copy)
    assert tag.startswith("cp310-abi3-linux_")
    assert "ryzen_mpi/comm/_kernel.abi3.so" in files


def test_wheel_registers_the_backend_with_torch(copy):
    make_wheel(copy)
    (wheel,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (n for n in opened.namelist() if n.endswith("entry_points.txt"))
        assert "[torch.backends]\nryzen_mpi = ryzen_mpi.comm.plugin:autoload" in opened.read(name).decode()


@pytest.mark.parametrize(
    ("compiler", "reason"), [("/bin/false", "/bin/false failed"), ("/no/compiler", "no C compiler (/no/compiler)")]
)
def test_without_a_working_compiler_the_wheel_has_no_kernel_and_says_so(copy, compiler, reason):
    make_wheel(copy)
    shutil.rmtree(copy / "dist")
    (copy / "ryzen_mpi/comm/part.h").touch()  # what an earlier build left behind is no kernel for these sources
    _, files, said = make_wheel(copy, CC=compiler)
    assert "ryzen_mpi/comm/__init__.py" in files
    assert not [name for name in files if name.endswith(".so")]
    (line,) = (line for line in said.splitlines() if line.startswith("kernel not built"))
    assert line.startswith(f"kernel not built, communication is slower: {reason}")


def test_without_headers_the_reason_is_the_headers(copy):
    # Python finds its headers by a variable of its own; the sources are then as if python3-dev were not there.
    site = copy / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sysconfig\nsysconfig.get_path = lambda *a, **k: '/no/headers'\n")
    (copy / "ryzen_mpi/comm/part.h").write_text("#error as without them\n")
    _, files, said = make_wheel(copy, PYTHONPATH=str(site))
    assert not [name for name in files if name.endswith(".so")]
    assert "no /no/headers/Python.h; Debian: apt-get install python3-dev" in said


def test_python_built_with_another_compiler_takes_the_one_there_is(copy):
    tools = copy / "tools"
    tools.mkdir()
    for tool, real in {"cc": "cc", "as": "as", "ld": "ld"}.items():
        (tools / tool).symlink_to(shutil.which(real))
    assert "cc" in setup_py(copy, "build_ext", PATH=str(tools))
    assert list(copy.glob("build/lib*/ryzen_mpi/comm/_kernel.abi3.so"))


def test_environment_variable_leaves_the_kernel_out(copy):
    tag, files, said = make_wheel(copy, RYZEN_MPI_WITHOUT_KERNEL="1")
    assert tag == "py3-none-any" and "kernel" not in said
    assert not [name for name in files if name.endswith(".so")]


def test_source_distribution_holds_the_kernel(copy):
    setup_py(copy, "sdist", "--formats=zip")
    (archive,) = (copy / "dist").glob("*.zip")
    names = {name.partition("/")[2] for name in zipfile.ZipFile(archive).namelist()}
    assert {"ryzen_mpi/comm/kernel.c", "ryzen_mpi/comm/part.h"} <= names
