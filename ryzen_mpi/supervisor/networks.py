"""Which of several networks an attempt uses: the first that has not broken."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Sequence

from ryzen_mpi.cluster.network import local_interfaces


def order(interfaces: Sequence[str], lost: Sequence[str]) -> list[str]:
    """`interfaces`, those that broke last: the one that broke longest ago may be whole again."""
    return [name for name in interfaces if name not in lost] + [name for name in lost if name in interfaces]


def words(interfaces: Sequence[str], lost: Sequence[str]) -> list[str]:
    """The setting of an attempt; nothing where no interfaces were named."""
    return [f"distributed.interfaces=[{','.join(order(interfaces, lost))}]"] if interfaces else []


def environment(interfaces: Sequence[str], lost: Sequence[str]) -> dict[str, str]:
    """What Open MPI and its launcher have to be told of it."""
    always = {
        # Slurm's PMIx offers a security plug-in that Open MPI from PyPI has not, and complains of once a rank.
        "PMIX_MCA_psec": "native",
        # The steps of an attempt that lost a node stay for as long as Slurm waits for that node: a step that does not
        # overlap with them would wait as well. mpirun starts its daemons with an srun of its own.
        "SLURM_OVERLAP": "1",
        **_shield(),
    }
    if not interfaces:
        return always
    first = order(interfaces, lost)[0]
    return always | {"OMPI_MCA_btl_tcp_if_include": first, "PRTE_MCA_oob_tcp_if_include": first}


@functools.cache
def _shield() -> dict[str, str]:
    """Makes mpirun's daemons deaf to the SIGTERM that Slurm sends to everything in a job it requeues.

    They answer it by killing the ranks after 0.25 s. The ranks get it themselves (the guards unblock it) and save.
    """
    agent = ["env", "--block-signal=TERM,USR1"]
    name = "PRTE_MCA_prte_launch_agent"
    if name in os.environ or subprocess.run([*agent, "true"], capture_output=True).returncode:
        return {}  # coreutils before 8.31: work may be lost, at most back to the last checkpoint
    return {name: " ".join([*agent, "prted"])}


def remember(lost: Sequence[str], addresses: Sequence[str], interfaces: Sequence[str]) -> list[str]:
    """`lost` with the interfaces of `addresses`, over which nothing was heard any more, as the newest."""
    names = {item["address"]: item["name"] for item in local_interfaces()}
    new = [names[address] for address in addresses if names.get(address) in interfaces]
    return [name for name in lost if name not in new] + new
