"""Several checks in one launch, as the runner's worker gives them their context: `checked.py FOLDER JSON`.

JSON is a list of requests {"check", "options", "overrides", "apart", "planted", "repeats"}; rank 0 writes what the
n-th found to FOLDER/n.json, a list with an entry a repetition. `apart`: the ranks are told that each is on a node of
its own. `planted`: a fault of `check_faults.py` by name.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import check_faults

from ryzen_mpi.cluster.job import run_job
from ryzen_mpi.cluster.phases import phase
from ryzen_mpi.cluster.world import World
from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.validation.registry import Context, find
from ryzen_mpi.validation.result import plain


def apart(world: World) -> World:
    """The same ranks, each on a node of its own."""
    host = f"host{world.rank}"
    return replace(world, local_rank=0, local_size=1, node=world.rank, nodes=world.size, hostname=host)


def one(world: World, request: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What the check found, each time. Collective."""
    check = find(request["check"])
    found = []
    free, overrides = os.sched_getaffinity(0), tuple(request.get("overrides", ()))
    for _ in range(request.get("repeats", 1)):
        os.sched_setaffinity(0, free)
        where = apart(world) if request.get("apart") else world
        context = Context(phase("1"), world.size, folder, where, None, overrides, request.get("options", {}))
        planted = request.get("planted")
        with getattr(check_faults, planted)(where) if planted else nullcontext():
            found.append(plain(asdict(check.run(context))))
    return found


def body(world: World) -> int:
    folder = Path(sys.argv[1])
    for number, request in enumerate(json.loads(sys.argv[2])):
        found = one(world, request, folder)
        if world.is_leader:
            write_atomic(folder / f"{number}.json", json.dumps(found, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(run_job(body))
