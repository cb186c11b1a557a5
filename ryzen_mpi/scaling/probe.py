"""`python -m ryzen_mpi.scaling.probe REQUEST`: one launch of a calibration, on the ranks it runs on.

A rank has the cores it would have on a full node, and no more: the first rank alone must not run on what the others
would take. Rank 0 writes the answer, whole or not at all.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.scaling.request import MEASURED_AS, Request

if TYPE_CHECKING:
    from ryzen_mpi.cluster.binding import Binding
    from ryzen_mpi.cluster.world import World


def main() -> None:
    from ryzen_mpi.cluster.job import run_job

    request = Request.read(Path(sys.argv[1]))
    sys.exit(run_job(lambda world: on_rank(world, request)))


def on_rank(world: World, request: Request) -> int:
    """The launch on one rank; returns the exit code. Collective. Raises UserError."""
    from ryzen_mpi.settings import load_settings

    settings = load_settings(request.config, [*request.overrides, *MEASURED_AS])
    place = take_place(world, request.threads, settings.hardware.bind)
    import torch

    from ryzen_mpi.bench.machine import machine
    from ryzen_mpi.cluster.allocator import keep_freed_memory
    from ryzen_mpi.cluster.topology import machine_id
    from ryzen_mpi.comm.rendezvous import process_group
    from ryzen_mpi.scaling.measures import Probe

    torch.set_num_threads(request.threads)
    keep_freed_memory()
    with process_group(world, settings.distributed) as group:
        answer = {"ranks": world.size, "nodes": world.nodes, "threads": request.threads, "backend": group.backend}
        answer["machines"] = len(set(world.exchange.allgather(machine_id())))
        answer["began"] = time.time()
        answer |= Probe(world, settings, request, place).measure()
        answer |= {"ended": time.time(), "machine": machine()}
    if world.is_leader:
        write_atomic(Path(request.answer), json.dumps(answer) + "\n")
    return 0


def take_place(world: World, threads: int, bind: str = "auto") -> Binding:
    """Moves this rank to the cores it would have on a node full of ranks of `threads` cores. Collective.

    `bind`: `none` leaves it on all of the node's cores, as hardware.bind=none does.
    """
    from ryzen_mpi.cluster import binding
    from ryzen_mpi.cluster.topology import read_topology

    masks = world.exchange.allgather([world.node, sorted(os.sched_getaffinity(0))])
    cpus = sorted({cpu for node, mask in masks if node == world.node for cpu in mask} | binding.launcher_cpus())
    topology = read_topology(cpus)
    full = max(world.local_size, len(topology.cores) // threads)
    mine = binding.plan([cpus] * full, topology, bind)[world.local_rank]
    binding.apply(mine)
    return mine


if __name__ == "__main__":
    main()
