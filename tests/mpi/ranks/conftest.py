"""What every test inside a world has: the world, bound and connected; and a report of each rank for outside."""

import json
import os
from pathlib import Path

import pytest

# Before torch is imported: four ranks on two cores must not start eight threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_tests: list[tuple[str, str, str]] = []


@pytest.fixture(scope="session")
def world():
    from ryzen_mpi.cluster.world import discover

    world = discover()
    yield world


@pytest.fixture(scope="session")
def place(world):
    """Where this rank was bound, as the main job binds it."""
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.config import Settings

    return bind_ranks(world, Settings())


@pytest.fixture(scope="session")
def group(world, place):
    """The default process group of the main job."""
    import torch

    from ryzen_mpi.comm.rendezvous import process_group
    from ryzen_mpi.config import Distributed

    torch.set_num_threads(1)
    with process_group(world, Distributed(timeout_s=60.0)) as group:
        yield group


@pytest.fixture(scope="session")
def solo(world, group):
    """A group of this rank alone: what trains in it communicates with nobody."""
    import torch.distributed as dist

    return [dist.new_group([rank]) for rank in range(world.size)][world.rank]


@pytest.fixture(scope="session")
def ryzen(world, group):
    """A group of all ranks with the backend of this package, under the default one."""
    from datetime import timedelta

    import torch.distributed as dist

    from ryzen_mpi.comm.plugin import autoload

    autoload()
    return dist.new_group(backend="ryzen", timeout=timedelta(seconds=60))


@pytest.fixture
def shared(world, tmp_path_factory):
    """A folder all ranks see, made by rank 0 for this test."""
    return Path(world.exchange.broadcast(str(tmp_path_factory.mktemp("shared")) if world.is_leader else None))


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        _tests.append((f"{report.nodeid} ({report.when})", report.outcome, report.longreprtext))


def pytest_sessionfinish(session):
    from mpi4py import MPI

    folder, comm = os.environ.get("RYZEN_MPI_TEST_RANKS"), MPI.COMM_WORLD
    if folder:
        said = {"rank": comm.rank, "size": comm.size, "tests": _tests}
        (Path(folder) / f"rank-{comm.rank:04d}.json").write_text(json.dumps(said))
