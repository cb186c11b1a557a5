"""Measuring which way ordinary tensors should take on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ryzen_mpi.cluster.exchange import MpiExchange
from ryzen_mpi.comm import tuning
from ryzen_mpi.comm.tuning import COLLECTIVES, Table
from ryzen_mpi.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from ryzen_mpi.comm.collectives import Collectives
    from ryzen_mpi.comm.group import MpiGroup

REPEATS, REPEATS_WHEN_LARGE, LARGE_BYTES = 7, 3, 1 << 20


def table(collectives: Collectives) -> Table:
    """The table for a group: kept from before, or measured now. Collective.

    Groups of one rank or of several nodes do not measure: the former have no choice, the latter stage all_reduce,
    which lets only slices cross the network.
    """
    comm = collectives.comm
    if comm.size == 1 or not collectives.one_node:
        return tuning.DEFAULT
    exchange = MpiExchange(comm)
    path = tuning.cache_path(comm)
    kept = tuning.load(path) if comm.rank == 0 else None
    steps, source = exchange.broadcast([kept.steps, kept.source] if kept else [None, ""])
    if steps is not None:
        return Table({name: tuple((size, way) for size, way in rows) for name, rows in steps.items()}, source)
    found = measure(collectives)
    if comm.rank == 0:
        tuning.store(found, path)
    return found


def tune(group: MpiGroup) -> Path:
    """Measures anew, keeps the table for later runs and takes it for this group; returns where. Collective.

    Raises UserError, on all ranks, where it cannot be kept.
    """
    collectives = group.collectives
    if collectives.size == 1 or not collectives.one_node:
        raise UserError("the size table is of the ranks of one node", "mpirun -np N on one node, N at least 2")
    collectives.table = measure(collectives)
    path = tuning.cache_path(collectives.comm)
    kept = tuning.store(collectives.table, path) if collectives.rank == 0 else True
    if not MpiExchange(collectives.comm).broadcast(kept):
        raise UserError(
            f"the size table cannot be kept in {path}", "XDG_CACHE_HOME names a directory that can be written"
        )
    return path


def measure(collectives: Collectives) -> Table:
    """Times every collective both ways. Collective."""
    data = {size: torch.zeros(size * collectives.size, dtype=torch.uint8) for size in tuning.SIZES}
    exchange = MpiExchange(collectives.comm)

    def run(name: str, size: int, way: str) -> float:
        collectives.table = Table({each: ((tuning.SIZES[-1], way),) for each in COLLECTIVES}, "")
        act = _call(collectives, name, data[size], size)
        act()
        seconds: list[float] = []
        for _ in range(REPEATS if size < LARGE_BYTES else REPEATS_WHEN_LARGE):
            collectives.comm.Barrier()
            began = time.perf_counter()
            act()
            seconds.append(time.perf_counter() - began)
        everyone = exchange.allgather(seconds)
        slowest = sorted(max(column) for column in zip(*everyone, strict=True))
        return slowest[len(slowest) // 2]

    return tuning.measure(run)


def _call(collectives: Collectives, name: str, memory: torch.Tensor, size: int):
    ranks = collectives.size
    whole = memory.view(torch.float32)
    part = torch.zeros(size // 4)
    return {
        "all_reduce": lambda: collectives.all_reduce(part, "sum"),
        "all_gather": lambda: collectives.all_gather(whole, part),
        "reduce_scatter": lambda: collectives.reduce_scatter(part, whole, "sum"),
        "broadcast": lambda: collectives.broadcast(part, 0),
        "all_to_all": lambda: collectives.all_to_all(torch.zeros(size // 4 * ranks), whole),
    }[name]
