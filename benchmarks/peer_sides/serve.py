"""The inside of a side: one job of `mpirun`, which stays alive and does what the driver tells its rank 0.

The driver's words come as lines on rank 0's standard input, the answers leave as lines of JSON on its standard output;
whatever else a library prints goes to standard error. Between two words nobody takes a core: rank 0 reads, the others
doze, for the other side is being measured then.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

import common
from memory import Sampler

from peer_sides.matmul import matmul
from ryzen_mpi.cluster.world import World, discover
from ryzen_mpi.config import Distributed, Settings

if TYPE_CHECKING:
    from peer_sides.step import Side
    from ryzen_mpi.data.source import TokenSource

MEETING_DOZE_S = 5e-5
PATIENCE_S = 120.0
"""For collectives of Gloo: a peer's first step may compile."""


def serve(name: str, settings: Settings, kind: str, glibc_as_it_is: bool) -> None:
    """Runs side `name` until it is told to quit. Collective: every rank of the job calls it.

    Args:
        kind: of the peer's model.
        glibc_as_it_is: leave the allocator alone, which is slower and takes less memory.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    world = discover()
    try:
        prepare_and_obey(world, answers, name, settings, kind, glibc_as_it_is)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        world.exchange.abort(1)  # a rank that merely ended would be waited for
        raise


def prepare_and_obey(
    world: World, answers: TextIO, name: str, settings: Settings, kind: str, glibc_as_it_is: bool
) -> None:
    """Makes the side ready and does what it is told, until `quit` or until nobody is left to tell. Collective."""
    if name == "ours":
        from ryzen_mpi.cluster.placement import bind_ranks

        bind_ranks(world, settings)
    import torch

    from ryzen_mpi.cluster.allocator import keep_freed_memory
    from ryzen_mpi.data.choose import open_source

    torch.set_num_threads(1)
    with opened(name, world, settings, open_source(settings, None), kind) as side:
        if not glibc_as_it_is:
            keep_freed_memory()  # for all sides: PyTorch's tuning guide asks for an allocator that does as much
        cpus = world.exchange.allgather(sorted(os.sched_getaffinity(0)))
        answer(world, answers, {"parameters": side.parameters, "cpus": cpus})
        while (word := heard(world)) and word[0] != "quit":
            answer(world, answers, obey(word, side, world))
        answers.close()  # the driver need not wait for the libraries' farewells


def heard(world: World) -> list[str]:
    """The driver's next line in words; none where the driver has gone. Collective."""
    return world.exchange.broadcast(sys.stdin.readline().split() if world.is_leader else None)


def answer(world: World, answers: TextIO, value: Any) -> None:
    """Says `value` to the driver, on rank 0."""
    if world.is_leader:
        print(json.dumps(value), file=answers, flush=True)


def obey(word: list[str], side: Side, world: World) -> dict[str, Any]:
    """The answer to one word of the driver. Collective."""
    if word[0] == "run":
        losses: list[float] = []
        figures = timed(lambda: losses.append(side.run()), int(word[1]), world)
        return figures | {
            "losses": [sum(column) / world.size for column in zip(*world.exchange.allgather(losses), strict=True)]
        }
    if word[0] == "update":
        return timed(side.update, int(word[1]), world, before=side.fill, after=side.clear)
    if word[0] == "matmul":
        return timed(matmul(), int(word[1]), world)
    if word[0] == "memory":
        pids = world.exchange.allgather(os.getpid())
        with Sampler(lambda: pids) if world.is_leader else nullcontext() as sampler:
            side.run()
            meet(world)
        return sampler.most if world.is_leader else {}
    raise ValueError(f"unknown word {word[0]!r}")


def timed(what, times: int, world: World, before=lambda: None, after=lambda: None) -> dict[str, Any]:
    """Seconds of each of `times` calls of `what`, barrier to barrier, of the slowest rank. Collective.

    `waited` is the share of the whole time that the rank waited for a core to run on, of the rank it hit hardest.
    """
    seconds, delay, began = [], common.disturbance(), time.perf_counter()
    for _ in range(times):
        before()
        meet(world)
        start = time.perf_counter()
        what()
        meet(world)
        seconds.append(time.perf_counter() - start)
        after()
    waited = (common.disturbance() - delay) / (time.perf_counter() - began)
    everyone = world.exchange.allgather([seconds, waited])
    slowest = [max(column) for column in zip(*(one for one, _ in everyone), strict=True)]
    return {"seconds": slowest, "waited": max(share for _, share in everyone)}


def meet(world: World) -> None:
    """A barrier that is the same for every side and leaves the cores to those that still work. Collective."""
    if world.comm is not None:
        request = world.comm.Ibarrier()
        while not request.Test():
            time.sleep(MEETING_DOZE_S)


@contextmanager
def opened(name: str, world: World, settings: Settings, source: TokenSource, kind: str) -> Iterator[Side]:
    """The side called `name`, with whatever process group it runs on. Collective."""
    from ryzen_mpi.comm.rendezvous import choose_interface, process_group

    if name == "ours":
        from peer_sides.ours import OurStep

        with process_group(world, settings.distributed):
            yield OurStep(world, settings, source)
    elif name in ("plain-ddp", "zero-redundancy", "fsdp2"):
        with process_group(world, Distributed(backend="gloo", timeout_s=PATIENCE_S)):
            if name == "fsdp2":
                from peer_sides.fsdp2 import Fsdp2Step

                yield Fsdp2Step(settings, source, kind)
            else:
                from peer_sides.plain_ddp import PlainStep

                yield PlainStep(settings, source, kind=kind, zero=name == "zero-redundancy")
    else:
        os.environ.update(launcher_variables(world, choose_interface(world, settings.distributed)))
        import torch.distributed as dist

        from peer_sides import frameworks

        step = {
            "accelerate": frameworks.AccelerateStep,
            "fabric": frameworks.FabricStep,
            "deepspeed": frameworks.DeepSpeedStep,
        }[name]
        yield step(world, settings, source, kind)
        dist.destroy_process_group()


def launcher_variables(world: World, interface) -> dict[str, str]:
    """What torchrun and DeepSpeed's launcher tell their processes. Collective."""
    door = None
    if world.is_leader:
        with socket.create_server((interface.address, 0)) as listener:
            door = [interface.address, listener.getsockname()[1]]
    address, port = world.exchange.broadcast(door)
    return {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.size),
        "LOCAL_RANK": str(world.local_rank),
        "LOCAL_WORLD_SIZE": str(world.local_size),
        "LOCAL_SIZE": str(world.local_size),
        "NODE_RANK": str(world.node),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": interface.name,
        "DS_ACCELERATOR": "cpu",
    }
