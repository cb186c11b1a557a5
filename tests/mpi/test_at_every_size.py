"""The tests in `ranks/`, started under mpirun at 1, 2, 3 and 4 ranks; they must run and pass on every rank."""

import json
import subprocess
import sys
from pathlib import Path

import launch
import pytest

RANKS = Path(__file__).parent / "ranks"
LIMIT_S = 600.0


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_tests_of_the_ranks_pass_on_every_rank(size, tmp_path):
    mpirun = launch.mpirun(2, "-m", "pytest")[0]
    command = [mpirun, "-np", str(size), sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(RANKS)]
    variables = {"RYZEN_MPI_TEST_RANKS": str(tmp_path), "OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1"}
    job = launch.run(command, launch.REPO, LIMIT_S, **variables)
    reports = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank-*.json"))]
    failed = [
        f"--- rank {report['rank']}: {name}\n{text}"
        for report in reports
        for name, outcome, text in report["tests"]
        if outcome != "passed"
    ]
    assert not failed, "\n".join(failed)
    said = [(report["rank"], report["size"]) for report in reports]
    assert said == [(rank, size) for rank in range(size)], job.said()
    names = [[name for name, *_ in report["tests"]] for report in reports]
    assert len(names[0]) >= 30 and all(other == names[0] for other in names), names
    assert job.code == 0, job.said()


def test_the_tests_of_the_ranks_are_not_collected_alone():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(Path(__file__).parent)]
    environment = launch.environment()
    listed = subprocess.run(command, cwd=launch.REPO, env=environment, capture_output=True, text=True, timeout=120)
    assert "test_at_every_size" in listed.stdout and "ranks/" not in listed.stdout, listed.stdout
