"""env/run on a tiny checkout of its own: the real script, setup.py, venv and pip, and only setuptools to fetch."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
# A kernel that only tells which one it is; with a header, as the real one has.
KERNEL = """
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include "number.h"

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) {
    PyObject *module = PyModule_Create(&definition);
    PyModule_AddIntConstant(module, "number", NUMBER);
    return module;
}
"""
SHOW_KERNEL = ["python", "-c", "from ryzen_mpi.comm import _kernel as k; print(k.number, k.__file__)"]


def make_checkout(folder: Path) -> Path:
    (folder / "env").mkdir(parents=True)
    shutil.copy(REPO / "env/run", folder / "env/run")
    pins = (REPO / "env/constraints.txt").read_text().splitlines()
    (folder / "env/constraints.txt").write_text("\n".join(p for p in pins if p.startswith("setuptools==")) + "\n")
    for name in ("setup.py", "pyproject.toml", "ryzen_mpi/__init__.py", "ryzen_mpi/comm/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, folder / name)
    (folder / "ryzen_mpi/comm/kernel.c").write_text(KERNEL)
    set_number(folder, 1)
    return folder


def set_number(checkout: Path, number: int | str) -> None:
    (checkout / "ryzen_mpi/comm/number.h").write_text(f"#define NUMBER {number}\n")


def environment(**changes: str) -> dict[str, str]:
    """The caller's variables without those that steer env/run or come from it."""
    ours = ("ENV_", "OMPI_", "PRTE_", "MPI4PY_", "VIRTUAL_ENV", "SLURM_", "PBS_", "LSB_", "RYZEN_MPI_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours) and k not in ("CC", "CFLAGS")}
    return kept | {"PIP_NO_DEPS": "1"} | changes


def command(checkout: Path, *words: str) -> list[str]:
    return [str(checkout / "env/run"), *words]


def run(checkout: Path, *words: str, cwd="/", **variables: str) -> subprocess.CompletedProcess:
    """Not in a checkout, where Python would find ryzen_mpi without its being installed."""
    return subprocess.run(
        command(checkout, *words),
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )


def start(checkout: Path, *words: str, **variables: str) -> subprocess.Popen:
    """In a process group of its own, so that a test can kill all of it."""
    return subprocess.Popen(
        command(checkout, *words),
        cwd="/",
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stamp(checkout: Path) -> Path:
    return checkout / ".venv/env-run.stamp"


@pytest.fixture
def checkout(tmp_path):
    return make_checkout(tmp_path / "a checkout")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A checkout whose environment is there, for the tests that leave it as it is."""
    folder = make_checkout(tmp_path_factory.mktemp("env_run") / "checkout")
    first = run(folder, "python", "-c", "import ryzen_mpi, sys; print(ryzen_mpi.__file__, sys.prefix)")
    assert first.returncode == 0, first.stderr
    assert first.stdout.split() == [f"{folder}/ryzen_mpi/__init__.py", f"{folder}/.venv"]
    assert "making" in first.stderr and "ready" in first.stderr
    return folder


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """One for the tests that change the kernel, each of which leaves a whole one."""
    folder = make_checkout(tmp_path_factory.mktemp("env_run") / "a checkout")
    first = run(folder, *SHOW_KERNEL)
    assert first.stdout == f"1 {folder}/.venv/kernel/_kernel.abi3.so\n", first.stderr
    return folder


def test_second_use_installs_nothing_and_says_nothing(built):
    log = built / ".venv.log"
    before = (log.stat().st_mtime_ns, stamp(built).stat().st_mtime_ns)
    second = run(built, "echo", "hello", ENV_PYTHON="/no/python/is/needed")
    assert (second.returncode, second.stdout, second.stderr) == (0, "hello\n", "")
    assert (log.stat().st_mtime_ns, stamp(built).stat().st_mtime_ns) == before


def test_command_keeps_directory_arguments_and_exit_code(built, tmp_path):
    words = ["a b", 'say "hi"', "it's", "$HOME *", "", "--", "-x"]
    code = "import os, sys; print([os.getcwd(), *sys.argv[1:]]); sys.exit(7)"
    done = run(built, "python", "-c", code, *words, cwd=tmp_path)
    assert done.stdout.strip() == repr([str(tmp_path), *words])
    assert done.returncode == 7


def test_works_through_a_symbolic_link(built, tmp_path):
    (tmp_path / "link").symlink_to(built / "env/run")
    words = [tmp_path / "link", "printenv", "VIRTUAL_ENV"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == f"{built}/.venv"


def test_without_a_command_prints_usage(built):
    done = run(built)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: env/run CMD")


def test_unknown_command_is_named(built):
    done = run(built, "no-such-command")
    assert done.returncode == 127
    assert "no-such-command: no such command" in done.stderr


def test_unknown_mpi_is_refused(built):
    done = run(built, "true", ENV_MPI="mine")
    assert done.returncode == 1
    assert "ENV_MPI=mine is unknown" in done.stderr


def test_own_mpi_variables_win(built):
    done = run(built, "printenv", "OMPI_MCA_osc", "PRTE_MCA_mapby", OMPI_MCA_osc="rdma", PRTE_MCA_mapby="core")
    assert done.stdout.split() == ["rdma", "core"]
    assert run(built, "printenv", "OMPI_MCA_osc").stdout == "^ucx\n"
    overridden = run(built, "printenv", "PRTE_MCA_rmaps_default_mapping_policy", PRTE_MCA_mapby="core")
    assert overridden.stdout == ""


def test_batch_jobs_are_not_oversubscribed(built):
    assert run(built, "printenv", "OMPI_MCA_rmaps_base_oversubscribe").stdout == "1\n"
    assert run(built, "printenv", "OMPI_MCA_rmaps_base_oversubscribe", SLURM_JOB_ID="5").stdout == ""


def test_changed_setup_updates_the_environment_without_remaking_it(checkout):
    assert run(checkout, "true").returncode == 0
    witness = checkout / ".venv/witness"
    witness.touch()
    setup = checkout / "setup.py"
    setup.write_text(setup.read_text().replace("version=VERSION[1]", 'version="99"'))
    done = run(checkout, "python", "-c", "import importlib.metadata as m; print(m.version('ryzen-mpi'))")
    assert done.stdout == "99\n", done.stderr
    assert "updating" in done.stderr and witness.exists()

    moved = checkout.rename(checkout.with_name("moved"))  # a venv cannot be moved: it is made again
    done = run(moved, "python", "-c", "import ryzen_mpi; print(ryzen_mpi.__file__)")
    assert done.stdout == f"{moved}/ryzen_mpi/__init__.py\n", done.stderr
    assert not (moved / ".venv/witness").exists()


def test_changed_kernel_is_compiled_into_the_environment_and_nothing_else_is_done(compiled):
    kernel = compiled / ".venv/kernel/_kernel.abi3.so"
    set_number(compiled, 2)
    done = run(compiled, *SHOW_KERNEL, PIP_NO_INDEX="1", PIP_CONFIG_FILE="/no/such")
    assert done.stdout == f"2 {kernel}\n", done.stderr
    assert [line.partition(" s  ")[2] for line in done.stderr.splitlines()] == ["compiling the kernel", "ready"]
    kernel.unlink()
    assert run(compiled, *SHOW_KERNEL).stdout == done.stdout
    assert run(compiled, *SHOW_KERNEL).stderr == ""


def test_kernel_that_does_not_compile_is_said_once_and_tried_again_when_something_changed(compiled):
    find = ["python", "-c", "import importlib.util as u; print(u.find_spec('ryzen_mpi.comm._kernel') is not None)"]
    assert run(compiled, *find).stdout == "True\n"

    set_number(compiled, "no C")
    broken = run(compiled, *find)
    assert (broken.returncode, broken.stdout) == (0, "False\n"), broken.stderr  # and not the one of before
    assert broken.stderr.count("kernel not built, communication is slower: ") == 1
    assert str(compiled / ".venv.log") in broken.stderr and "number.h" in (compiled / ".venv.log").read_text()
    assert run(compiled, *find).stderr == ""

    set_number(compiled, 3)
    missing = run(compiled, *find, CC="/no/compiler")
    assert (missing.returncode, missing.stdout) == (0, "False\n")
    assert "no C compiler (/no/compiler); Debian: apt-get install gcc libc6-dev python3-dev" in missing.stderr
    assert run(compiled, *find, CC="/no/compiler").stderr == ""

    installed = run(compiled, *SHOW_KERNEL)  # with a compiler that was not there before
    assert installed.stdout.startswith("3 "), installed.stderr


def test_killed_compilation_is_all_that_is_made_again(compiled, tmp_path):
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\ntouch '{tmp_path}/reached'; sleep 60\n")
    slow.chmod(0o755)
    set_number(compiled, 4)
    first = start(compiled, "true", CC=str(slow))
    deadline = time.monotonic() + 60
    while not (tmp_path / "reached").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = run(compiled, *SHOW_KERNEL)
    assert second.stdout.startswith("4 "), second.stderr
    assert "compiling" in second.stderr and not {"making", "updating"} & set(second.stderr.split())


def test_checkout_is_only_read_and_every_environment_has_its_own_kernel(built, tmp_path):
    def parts() -> dict[Path, int]:
        """Folders included, which remember files that came and went."""
        kept = (p for p in [built, *built.rglob("*")] if not {".venv", "__pycache__"} & set(p.parts))
        return {path: path.stat().st_mtime_ns for path in kept}

    first = run(built, *SHOW_KERNEL)
    assert first.stdout == f"1 {built}/.venv/kernel/_kernel.abi3.so\n", first.stderr
    before = parts()
    variables = {"ENV_MPI": "mpich", "ENV_VENV": str(tmp_path / "other"), "PYTHONDONTWRITEBYTECODE": "1"}
    other = run(built, *SHOW_KERNEL, **variables)
    assert other.stdout == f"1 {tmp_path}/other/kernel/_kernel.abi3.so\n", other.stderr
    assert parts() == before
    assert run(built, *SHOW_KERNEL).stdout == first.stdout


def test_twice_at_once_builds_once(checkout):
    both = [start(checkout, "echo", str(i)) for i in range(2)]
    outputs = [p.communicate(timeout=300) for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert [out for out, _ in outputs] == ["0\n", "1\n"]
    said = "".join(err for _, err in outputs)
    assert said.count("making") == 1 and said.count("waiting for another") == 1


@pytest.mark.parametrize("whole_group", [True, False], ids=["with its children", "alone"])
def test_killed_first_use_is_made_again(checkout, whole_group):
    first = start(checkout, "true")
    deadline = time.monotonic() + 60
    while not (checkout / ".venv/pyvenv.cfg").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (os.killpg if whole_group else os.kill)(first.pid, signal.SIGKILL)
    first.wait()
    assert not stamp(checkout).exists()
    second = run(checkout, "python", "-c", "import ryzen_mpi")
    assert second.returncode == 0, second.stderr
    assert "making" in second.stderr


def test_failing_pip_names_its_log_and_leaves_no_stamp(checkout):
    pins = checkout / "env/constraints.txt"
    pins.write_text("setuptools==0.0.1\n")
    done = run(checkout, "echo", "never", PIP_NO_INDEX="1")
    assert done.returncode == 1 and done.stdout == ""
    assert "could not install setuptools" in done.stderr and str(checkout / ".venv.log") in done.stderr
    assert "setuptools==0.0.1" in (checkout / ".venv.log").read_text()
    assert not stamp(checkout).exists()


def test_unsuitable_python_is_refused(checkout):
    done = run(checkout, "true", ENV_PYTHON="/bin/false")
    assert done.returncode == 1
    assert "ENV_PYTHON=/bin/false is no Python 3.10 or later" in done.stderr


def test_directory_that_holds_something_else_is_left_alone(checkout, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    done = run(checkout, "true", ENV_VENV=str(tmp_path / "mine"))
    assert done.returncode == 1
    assert "is not empty and was not made by env/run" in done.stderr
    assert (tmp_path / "mine/thesis.tex").exists()


def test_ordinary_user_without_write_permission_is_told_what_to_do():
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which other users may not enter
        os.chmod(folder, 0o755)
        checkout = make_checkout(Path(folder) / "checkout")
        checkout.chmod(0o555)
        ordinary = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*ordinary, *command(checkout, "true")],
            cwd="/",
            env=environment(),
            capture_output=True,
            text=True,
        )
        checkout.chmod(0o755)
    assert done.returncode == 1
    assert f"cannot write {checkout}/.venv" in done.stderr and "ENV_VENV=DIR" in done.stderr


def test_site_mpi_wins_over_every_venv_on_the_path(checkout, tmp_path):
    site, wheel = tmp_path / "opt/mpi", tmp_path / "some venv"
    for prefix in (site, wheel):
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin/mpirun").write_text("#!/bin/sh\n")
        (prefix / "bin/mpirun").chmod(0o755)
    (site / "lib").mkdir()
    (site / "lib/libmpi.so").touch()
    (wheel / "pyvenv.cfg").touch()
    path = f"{wheel}/bin:{site}/bin:{os.environ['PATH']}"
    seen = "type -P mpirun; printenv MPI4PY_LIBMPI VIRTUAL_ENV"
    done = run(checkout, "bash", "-c", seen, ENV_MPI="site", PATH=path)
    expected = [f"{site}/bin/mpirun", f"{site}/lib/libmpi.so", f"{checkout}/.venv-site"]
    assert done.stdout.splitlines() == expected, done.stderr


def test_every_extra_that_is_asked_for_exists(built):
    """pip only warns of one that does not."""
    asked = re.findall(r"\bextras=([\w,]+)", (built / "env/run").read_text())
    code = "import importlib.metadata as m; print(*m.metadata('ryzen-mpi').get_all('Provides-Extra'))"
    offered = run(built, "python", "-c", code).stdout.split()
    assert "mpich,dev" in asked and set(",".join(asked).split(",")) <= set(offered)


def test_mpich_has_an_environment_of_its_own(checkout):
    (checkout / ".venv-mpich").touch()  # in its way
    done = run(checkout, "true", ENV_MPI="mpich")
    assert f"cannot write {checkout}/.venv-mpich," in done.stderr


def test_site_mpi_that_is_not_there_is_missed(checkout, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "readlink"):
        (tools / tool).symlink_to(shutil.which(tool))
    done = run(checkout, "true", ENV_MPI="site", PATH=str(tools))
    assert done.returncode == 1
    assert "no mpirun or mpiexec is on PATH" in done.stderr
