"""What `test_communication_faults.py` starts: every rank but one meets every collective without that one.

Each operation has a group of its own, made while all were well, because a group in which a rank was missing is of no
use afterwards. What each rank met is written as JSON beside the others'.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ryzen_mpi.comm import plugin
from ryzen_mpi.comm.tuning import COLLECTIVES, MPI_WAY, STAGED, Table

LIMIT_S = 1.0
SMALL, LARGE = 5, 700_001


Call = Callable[[dist.ProcessGroup], object]


def operations(kind: str, victim: int) -> Iterator[tuple[str, str, Call]]:
    """Name, way and call of everything that cannot end without rank `victim`."""
    ones, root = torch.ones, 2 if victim != 2 else 0
    every: dict[str, Call] = {
        "all_reduce": lambda g: dist.all_reduce(ones(SMALL), group=g),
        "all_reduce, large": lambda g: dist.all_reduce(ones(LARGE), group=g),
        "broadcast": lambda g: dist.broadcast(ones(LARGE), victim, group=g),
        "all_gather": lambda g: dist.all_gather_single(ones(9 * g.size()), ones(9), group=g),
        "reduce_scatter": lambda g: dist.reduce_scatter_single(ones(9), ones(9 * g.size()), group=g),
        "all_to_all": lambda g: dist.all_to_all_single(ones(9 * g.size()), ones(9 * g.size()), group=g),
    }
    yield from ((name, STAGED, call) for name, call in every.items())
    # a stopped rank costs its timeout each time: not all of them by the slower way
    yield from ((name, MPI_WAY, call) for name, call in list(every.items())[1 if kind == "stopped" else 0 :: 2])
    yield "barrier", STAGED, lambda g: dist.barrier(group=g)
    yield "all_reduce", "later", lambda g: dist.all_reduce(ones(SMALL), group=g, async_op=True).wait()
    yield "all_reduce", "arena", lambda g: dist.all_reduce(g.in_arena, group=g)
    yield "scatter", MPI_WAY, lambda g: dist.scatter(ones(9), None, victim, group=g)
    if kind != "stopped":
        rooms = {root: [ones(9)] * 3}
        yield "gather", MPI_WAY, lambda g: dist.gather(ones(9), rooms.get(g.rank()), root, group=g)
    yield "send", MPI_WAY, lambda g: dist.send(ones(LARGE), victim, group=g)
    yield "recv", MPI_WAY, lambda g: dist.recv(ones(SMALL), victim, group=g)


def make_group(way: str) -> dist.ProcessGroup:
    group = dist.new_group(backend="ryzen", timeout=timedelta(seconds=LIMIT_S))
    if way in (STAGED, MPI_WAY):
        group.collectives.table = Table({name: ((1, way),) for name in COLLECTIVES}, "a test")
    if way == "arena":
        group.in_arena = group.arena(1 << 20).empty(1000, torch.float32)
    dist.all_reduce(torch.ones(SMALL), group=group)  # what opens at the first use is open
    return group


def befall(kind: str) -> None:
    """What happens to the victim while the others are in their first collective."""
    time.sleep(0.5)
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "raising":
        raise RuntimeError("planted: this rank fails alone")


def met(name: str, way: str, call: Call, group: dist.ProcessGroup) -> list:
    began = time.monotonic()
    try:
        call(group)
    except Exception as error:
        return [name, way, type(error).__name__, str(error), time.monotonic() - began]
    return [name, way, None, "", time.monotonic() - began]


def without_one(folder: Path, kind: str, victim: int) -> None:
    """All ranks but `victim` meet every operation, each in a group of its own."""
    todo = [(*operation, make_group(operation[1])) for operation in operations(kind, victim)]
    write(folder, "pid", os.getpid())
    dist.barrier()
    if dist.get_rank() == victim:
        befall(kind)
    write(folder, "met", [met(*each) for each in todo])


def mismatch(folder: Path) -> None:
    """The last rank does something else than the others."""
    ones, other = torch.ones, dist.get_rank() == dist.get_world_size() - 1
    calls: dict[str, Call] = {
        "operation": lambda g: dist.barrier(group=g) if other else dist.all_reduce(ones(9), group=g),
        "reduction": lambda g: dist.all_reduce(ones(9), op=dist.ReduceOp.MAX if other else dist.ReduceOp.SUM, group=g),
        "shape": lambda g: dist.all_reduce(ones(10 if other else 9), group=g),
        "dtype": lambda g: dist.all_reduce(ones(9, dtype=torch.float64 if other else torch.float32), group=g),
        "root": lambda g: dist.broadcast(ones(9), int(other), group=g),
        "collective": lambda g: (
            dist.all_reduce(ones(9), group=g) if other else dist.all_gather_single(ones(9 * g.size()), ones(9), group=g)
        ),
    }
    groups = [make_group(STAGED) for _ in calls]
    write(folder, "met", [met(name, STAGED, calls[name], g) for name, g in zip(calls, groups, strict=True)])


def late_barrier(folder: Path) -> None:
    """The last rank comes after the barrier's own timeout, far before the group's."""
    if dist.get_rank() == dist.get_world_size() - 1:
        time.sleep(3)
    call = lambda g: dist.barrier(group=g, timeout=timedelta(seconds=0.5))  # noqa: E731
    write(folder, "met", [met("barrier", "", call, dist.group.WORLD)])


def signals(folder: Path) -> None:
    """A handler runs on rank 0 while it waits for the others, and the collective ends well."""
    group, rank, ran = {way: make_group(way) for way in (STAGED, MPI_WAY)}, dist.get_rank(), []
    signal.signal(signal.SIGALRM, lambda *_: ran.append(time.monotonic()))
    results = []
    for way in group:
        ran.clear()
        group[STAGED].collectives.set_timeout(60.0)
        if rank == 0:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
        else:
            time.sleep(0.6)
        tensor = torch.ones(SMALL)
        dist.all_reduce(tensor, group=group[way])
        results.append([way, tensor[0].item(), time.monotonic() - ran[0] if ran else None])
    write(folder, "met", results)


def write(folder: Path, name: str, value: object) -> None:
    path = folder / f"{name}-{dist.get_rank()}.json"
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(value))
    aside.replace(path)


def main(what: str, folder: Path, *more: str) -> None:
    plugin.autoload()
    dist.init_process_group("ryzen", timeout=timedelta(seconds=60))
    if what in ("killed", "stopped", "raising"):
        without_one(folder, what, int(more[0]))
    else:
        {"mismatch": mismatch, "late barrier": late_barrier, "signals": signals}[what](folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
