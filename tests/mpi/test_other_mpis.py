"""The process group and the arenas on the other MPIs people have: Debian's Open MPI 4.1 and MPICH."""

import json
import shutil
import sys
from pathlib import Path

import launch
import pytest

RANKS = Path(__file__).parent / "ranks"
LIBRARIES = Path("/usr/lib") / f"{sys.implementation._multiarch}"
SIZE = 3
LIMIT_S = 300.0

# name: (launcher, library, the name mpi4py's wheel knows it by)
OTHERS = {
    "Open MPI 4": ("mpirun.openmpi", "libmpi.so.40", "libmpi.so.40"),
    "MPICH": ("mpiexec.mpich", "libmpich.so.12", "libmpi.so.12"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_collectives_work_with(name, tmp_path):
    launcher, library, known_as = OTHERS[name]
    if not (shutil.which(launcher) and (LIBRARIES / library).exists()):
        pytest.skip(f"{name} is not installed ({launcher}, {library}); .ci/run installs it")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / known_as).symlink_to(LIBRARIES / library)
    variables = {
        "MPI4PY_LIBMPI": str(tmp_path / "lib" / known_as),
        "LD_LIBRARY_PATH": str(tmp_path / "lib"),
        "RYZEN_MPI_TEST_RANKS": str(tmp_path),
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    files = [str(RANKS / "test_arenas.py"), str(RANKS / "test_process_group.py")]
    command = [shutil.which(launcher), "-n", str(SIZE), sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    job = launch.run([*command, *files], launch.REPO, LIMIT_S, **variables)
    reports = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank-*.json"))]
    came = [(report["rank"], report["size"]) for report in reports]
    assert came == [(rank, SIZE) for rank in range(SIZE)], job.said()
    failed = [text for report in reports for _, outcome, text in report["tests"] if outcome != "passed"]
    assert not failed and all(report["tests"] for report in reports), "\n".join(failed)
    assert job.code == 0, job.said()
