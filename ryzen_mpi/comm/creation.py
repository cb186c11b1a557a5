"""How a process group comes to be: who is in it, over which communicator, and the store when torch has none."""

from __future__ import annotations

import socket
import zlib
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ryzen_mpi.cluster.exchange import MpiExchange
from ryzen_mpi.comm import ways
from ryzen_mpi.comm.collectives import Collectives
from ryzen_mpi.comm.failure import CollectiveError, Failures
from ryzen_mpi.comm.group import MpiGroup
from ryzen_mpi.comm.region import PEER_ERRORS


def create_group(options: Any, backend_options: Any = None) -> MpiGroup:
    """The process group torch.distributed asks for. Collective among the members of the group alone.

    Raises CollectiveError where a member does not come, RuntimeError where MPI does not know the ranks.
    """
    from mpi4py import MPI

    name, rank, size, timeout_s = options.group_id, options.group_rank, options.group_size, _seconds(options.timeout)
    world = MPI.COMM_WORLD
    if world.size < size:
        raise RuntimeError(
            f"backend ryzen: the group has {size} ranks, MPI's world {world.size}; start with mpirun, or with "
            "srun --mpi=pmix (under torchrun there is no MPI: use gloo)"
        )
    members = _mpi_ranks(options.store, rank, size, world.rank)
    # only the members are here, which rules out Split and Dup
    group = world.group.Incl(members)
    comm = world.Create_group(group, tag=zlib.crc32(name.encode()) % 32768)
    group.Free()
    comm.Set_errhandler(MPI.ERRORS_RETURN)
    try:
        collectives = Collectives(comm, timeout_s)
        collectives.table = ways.table(collectives)
        hosts = MpiExchange(comm).allgather(socket.gethostname())
    except PEER_ERRORS as error:
        raise CollectiveError(f"process group {name} did not come up on rank {rank}: {error}") from None
    ranks = list(options.global_ranks_in_group) or list(range(size))
    return MpiGroup(collectives, Failures(name, rank, ranks, hosts, options.store), options.store)


def _mpi_ranks(store: dist.Store, rank: int, size: int, mine: int) -> list[int]:
    """MPI's rank of every member. The store has a timeout, so that one that does not come is noticed here."""
    if size == 1:
        return [mine]
    store.set(f"mpi_rank/{rank}", str(mine))
    return [int(store.get(f"mpi_rank/{member}")) for member in range(size)]


def _seconds(timeout: timedelta | None) -> float:
    return timeout.total_seconds() if timeout is not None else dist.default_pg_timeout.total_seconds()
