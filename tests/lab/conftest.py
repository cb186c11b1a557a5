"""The cluster as fixtures: `cluster` for the session, `lab` for one test, which finds it whole and leaves it whole."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # for `tests.lab`, which is no installed package

from tests.lab import results  # noqa: E402
from tests.lab.cluster import Cluster  # noqa: E402
from tests.lab.hosts import why_impossible  # noqa: E402
from tests.lab.jobs import submit  # noqa: E402


@pytest.fixture(scope="session")
def cluster():
    reason = why_impossible()
    if reason:
        # Where everything is checked, a lab that cannot run is an error and not an excuse.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def table():
    """Takes a row of the lab's table of scenarios; `python -m tests.lab table` prints it."""
    return results.row


@pytest.fixture(scope="session")
def undisturbed(cluster):
    """The final checkpoint of a run of three ranks on three nodes that nobody disturbed."""
    cluster.revive()
    job = submit(cluster, "undisturbed", 3, 1)
    job.wait("COMPLETED")
    assert len(job.recovered()) == 1, job.said()
    assert set(job.complete()) and job.complete()["nodes"] == 3
    return job.final()


@pytest.fixture
def lab(cluster):
    cluster.revive()
    yield cluster
    # Also after a failed test: first what went on is ended, then looked at, then cleared away for the next one.
    try:
        cluster.end_programs()
        cluster.revive(idle=False)
        cluster.cancel_jobs()
        cluster.check_clean()
    finally:
        cluster.kill_stray_jobs()
