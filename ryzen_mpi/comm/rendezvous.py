"""torch.distributed out of the world: rank 0 opens the store, everyone learns where, the process group comes up.

Backend `mpi` is PyTorch's own where it was built with MPI, else ours (group.py), whose name is `ryzen`.

No port is guessed, so no two jobs on a node race for one: rank 0 listens on a port the kernel chose and tells the
others over the start-up exchange.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ryzen_mpi.cluster import network
from ryzen_mpi.cluster.exchange import fail_together
from ryzen_mpi.cluster.world import World, discover
from ryzen_mpi.comm import registry
from ryzen_mpi.comm.creation import create_group
from ryzen_mpi.comm.region import kernel_name
from ryzen_mpi.config import Distributed
from ryzen_mpi.errors import UserError

MEETING_S = 2.0
"""How long a node may take to reach rank 0's over an interface that is up."""


@dataclass(frozen=True)
class Group:
    """What came up: the backend with its reason, the interface it talks over, and where the store listens."""

    backend: str
    reason: str
    interface: network.Interface
    store_address: str
    timeout_s: float

    @property
    def description(self) -> str:
        """For people: MPI finds its own way between nodes, the others take the interface."""
        if self.backend == "mpi":
            return f"mpi ({self.reason})"
        return f"{self.backend} on {self.interface.name} ({self.interface.reason})"


def available_backends(world: World) -> dict[str, str]:
    """Backends that can train here, with the reason. Local."""
    found = {}
    if dist.is_gloo_available():
        found["gloo"] = "part of this PyTorch"
    if dist.is_mpi_available():
        found["mpi"] = "this PyTorch is built with MPI"
    elif world.comm is not None:
        found["mpi"] = f"ours, over mpi4py; node memory: {kernel_name()}"
    if dist.is_nccl_available() and torch.cuda.is_available():
        found["nccl"] = "CUDA is present"
    return found


@contextmanager
def process_group(world: World, settings: Distributed) -> Iterator[Group]:
    """The default process group over all ranks of `world`, for as long as the block lasts.

    Collective: all ranks enter. Raises UserError where the backend, the interface or the address cannot be had.
    """
    backend, reason = choose_backend(settings.backend, world)
    interface = choose_interface(world, settings)
    # Gloo resolves the host's name unless told the interface, and clusters map that name to anything
    os.environ["GLOO_SOCKET_IFNAME"] = interface.name
    store, address = open_store(world, settings, interface)
    timeout = timedelta(seconds=settings.timeout_s)
    registry.register(create_group)  # torch has done it where the package is installed, not in a bare checkout
    ours = backend == "mpi" and not dist.is_mpi_available()
    dist.init_process_group(
        registry.NAME if ours else backend,
        store=dist.PrefixStore("ryzen_mpi", store),
        rank=world.rank,
        world_size=world.size,
        timeout=timeout,
    )
    try:
        yield Group(backend, reason, interface, address, settings.timeout_s)
    finally:
        dist.destroy_process_group()


def choose_backend(backend: str, world: World) -> tuple[str, str]:
    """The backend to use, with the reason. Raises UserError naming what is available where `backend` is not. Local."""
    available = available_backends(world)
    if backend == "auto":
        backend = "mpi" if "mpi" in available and world.size > 1 else "gloo"
    if backend not in available:
        listed = "; ".join(f"{name} ({reason})" for name, reason in available.items()) or "none"
        raise UserError(f"distributed.backend={backend} is not available here", f"available: {listed}")
    return backend, available[backend]


def choose_interface(world: World, settings: Distributed) -> network.Interface:
    """The interface of this rank. Collective. Raises UserError, on every rank alike, where there is none."""
    if settings.interfaces:
        return _preferred_interface(world, settings.interfaces)
    everyone = world.exchange.allgather(network.local_interfaces())
    wanted = network.wanted_interface(settings.interface)
    try:
        answer, failure = network.choose(everyone, world.rank, world.nodes, wanted), None
    except UserError as error:
        answer, failure = None, error
    fail_together(world.exchange, failure)
    return answer


def _preferred_interface(world: World, names: Sequence[str]) -> network.Interface:
    mine = [world.hostname, network.local_interfaces(), network.interfaces_without_carrier()]
    everyone = [network.Ends(*ends) for ends in world.exchange.allgather(mine)]

    def meets(name: str) -> str | None:
        if world.nodes == 1:
            return None
        addresses = [network.address_of(name, ends) for ends in everyone]
        return _meeting_problem(world, addresses)

    return network.choose_preferred(names, everyone, world.rank, meets)


def _meeting_problem(world: World, addresses: Sequence[str]) -> str | None:
    """Why some node does not reach rank 0's over `addresses` (one a rank), or None. Collective; all get the same."""
    listener, door = None, None
    if world.is_leader:
        with contextlib.suppress(OSError):  # the address went between looking and listening
            listener = socket.create_server((addresses[0], 0), backlog=1024)
            door = listener.getsockname()[1]
    door = world.exchange.broadcast(door)
    problem = None
    if door is None:
        problem = f"{addresses[0]} on {world.hostname} cannot be listened on" if world.is_leader else None
    elif world.local_rank == 0:
        try:  # from our own end, or a route by another interface would be found good
            connection = socket.create_connection(
                (addresses[0], door), timeout=MEETING_S, source_address=(addresses[world.rank], 0)
            )
            connection.close()
        except OSError as error:
            problem = f"{world.hostname} does not reach {addresses[0]} ({error.strerror or error})"
    problems = [told for told in world.exchange.allgather(problem) if told]
    if listener is not None:
        listener.close()
    return ", ".join(problems) or None


def open_store(world: World, settings: Distributed, interface: network.Interface) -> tuple[dist.TCPStore, str]:
    host, port = _requested_address(settings)
    listener, problem = None, None
    if world.is_leader:
        host = host or interface.address
        try:
            listener = socket.create_server((host, port), backlog=1024)
        except OSError as error:
            problem = f"the store can't listen on {host}:{port}: {os.strerror(error.errno or 0)}"
        else:
            port = listener.getsockname()[1]
    host, port, problem = world.exchange.broadcast([host, port, problem])
    if problem:
        raise UserError(
            problem,
            "distributed.master_addr: an address of rank 0's node, or none; "
            "distributed.master_port=0 lets the kernel choose a free port",
        )
    timeout = timedelta(seconds=max(60.0, settings.timeout_s))  # ranks of a busy node arrive far apart
    if listener is not None:
        # our own listener, because a TCPStore left to itself listens on every interface of the host
        store = dist.TCPStore(
            host,
            port,
            world.size,
            is_master=True,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    else:
        store = dist.TCPStore(host, port, world.size, is_master=False, timeout=timeout, wait_for_workers=False)
    return store, f"{host}:{port}"


def _requested_address(settings: Distributed) -> tuple[str | None, int]:
    """Host and port a person asked for; None and 0 where the choice is ours."""
    if settings.init_method.startswith("tcp://"):
        host, _, port = settings.init_method.removeprefix("tcp://").rpartition(":")
        return host, int(port)
    if settings.init_method == "env://":
        host = settings.master_addr or os.environ.get("MASTER_ADDR")
        port = settings.master_port or os.environ.get("MASTER_PORT", "")
        if not host or not str(port).isdigit():
            raise UserError(
                "distributed.init_method=env:// needs MASTER_ADDR and MASTER_PORT",
                "distributed.init_method=auto needs neither",
            )
        return host, int(port)
    return settings.master_addr, settings.master_port


def rendezvous_over_mpi(timeout: timedelta) -> Iterator[tuple[dist.Store, int, int]]:
    """Store, rank and number of ranks for `init_process_group` from the communicator alone. Collective."""
    world = discover()
    settings = Distributed(timeout_s=timeout.total_seconds())
    interface = choose_interface(world, settings)
    store, _ = open_store(world, settings, interface)
    yield store, world.rank, world.size
    raise RuntimeError("the ranks of an MPI job cannot meet a second time")
