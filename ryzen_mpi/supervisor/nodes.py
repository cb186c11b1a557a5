"""Which nodes there are, and which of them answer."""

from __future__ import annotations

import ipaddress
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from ryzen_mpi.cluster import slurm
from ryzen_mpi.cluster.network import local_interfaces
from ryzen_mpi.errors import UserError

PROBE_S = 5.0
CONTROLLER_S = 120.0
"""Seconds to wait for a Slurm controller that is being restarted, or a machine that is too busy to answer."""


class Nodes(Protocol):
    """The machines an attempt can use."""

    names: Sequence[str]

    def answering(self) -> tuple[list[str], dict[str, str]]:
        """Those that answer now, in order, and the others with the reason."""

    def addresses(self) -> list[str]:
        """Own addresses at which guards on all of them can report."""

    def are_back(self, names: Sequence[str]) -> bool:
        """Whether `names`, which don't answer, could be had again by starting anew."""

    def job_goes_on(self) -> bool:
        """Whether this is in a batch job that nobody has ended; False outside of one."""


class ThisMachine:
    """Outside a batch job: one node, which answers by asking."""

    names = ("localhost",)

    def answering(self) -> tuple[list[str], dict[str, str]]:
        return list(self.names), {}

    def addresses(self) -> list[str]:
        return ["127.0.0.1"]  # nothing leaves the machine

    def are_back(self, names: Sequence[str]) -> bool:
        return False

    def job_goes_on(self) -> bool:
        return False


class SlurmNodes:
    """The nodes of the allocation this process is in."""

    def __init__(self, allocation: slurm.Allocation) -> None:
        self.allocation = allocation
        self.names = allocation.nodes

    def answering(self) -> tuple[list[str], dict[str, str]]:
        until, told = time.monotonic() + CONTROLLER_S, ""
        while True:
            found = slurm.answering_nodes(self.allocation, self.names, PROBE_S)
            doubt = self._doubt(found)
            if not doubt:
                good = [name for name in self.names if found[name] is None]
                return good, {name: reason for name, reason in found.items() if reason is not None}
            if time.monotonic() > until:
                raise UserError(doubt, "start again once it does")
            if doubt != told:
                print(f"supervisor: waiting, {doubt}", file=sys.stderr, flush=True)
            told = doubt
            time.sleep(1.0)

    def _doubt(self, found: Mapping[str, str | None]) -> str:
        """Why the answers say nothing of the nodes; "" where they do."""
        if slurm.CONTROLLER_AWAY in found.values():
            return slurm.CONTROLLER_AWAY
        own = os.environ.get("SLURMD_NODENAME", "")  # where this runs: it is not dead, whatever was answered
        if found.get(own) is not None:
            return f"{own}, where this runs, starts no program: {found[own]}"
        return ""

    def addresses(self) -> list[str]:
        if len(self.names) == 1:
            return ["127.0.0.1"]
        found = [item["address"] for item in local_interfaces()]
        return [a for a in found if not ipaddress.ip_address(a).is_loopback]

    def are_back(self, names: Sequence[str]) -> bool:
        """Slurm takes a node that was down out of an allocation for good; requeued, the job can have it again."""
        if not self.allocation.requeue_allowed:
            return False
        return all(slurm.node_state(name) in ("idle", "mixed") for name in names)

    def job_goes_on(self) -> bool:
        return slurm.job_state(self.allocation) == "RUNNING"
