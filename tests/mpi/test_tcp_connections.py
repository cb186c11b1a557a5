"""Two ranks talk over two TCP connections, unless the person says otherwise (benchmarks/links.py tells why)."""

import launch
import pytest

# A connection between ranks is one that both see, each from its end; those to the launcher are not.
COUNT = """
import os
from pathlib import Path

import numpy as np

from ryzen_mpi.cluster.world import discover

world = discover()
here, there = np.ones(1 << 20), np.empty(1 << 20)
world.comm.Sendrecv(here, 1 - world.rank, 0, there, 1 - world.rank, 0)
sockets = set()
for number in os.listdir("/proc/self/fd"):
    try:
        sockets.add(os.readlink(f"/proc/self/fd/{number}"))
    except OSError:
        pass
rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
ends = [[row[1], row[2]] for row in rows if f"socket:[{row[9]}]" in sockets]
mine, other = (world.exchange.allgather(ends)[rank] for rank in (world.rank, 1 - world.rank))
if world.is_leader:
    print("connections:", sum([remote, local] in other for local, remote in mine), flush=True)
world.exchange.close()
"""
TCP_ALONE = {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,tcp", "OMPI_MCA_btl_tcp_if_include": "lo"}


@pytest.mark.parametrize("given, connections", [({}, 2), ({"OMPI_MCA_btl_tcp_links": "1"}, 1)])
def test_two_ranks_have_two_connections_unless_told_otherwise(given, connections):
    job = launch.run(launch.mpirun(2, "-c", COUNT), launch.REPO, 120, **TCP_ALONE, **given)
    assert job.code == 0 and f"connections: {connections}\n" in job.out, job.said()
