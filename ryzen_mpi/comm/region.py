"""The memory the ranks of a node share, opened through MPI, with the kernel (or its plain version) working on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ryzen_mpi.cluster.exchange import MpiExchange, fail_together
from ryzen_mpi.comm.waiting import Absent, Patience
from ryzen_mpi.errors import UserError

try:
    from ryzen_mpi.comm import _kernel
except ImportError:  # built without a compiler
    _kernel = None
if _kernel is not None and not _kernel.HAS_F16:  # a processor from before 2012
    _kernel = None

SHARED_MEMORY = "/dev/shm"
SPINS, SPINS_WHEN_SHARING_CORES = 4000, 50
"""Looks at a peer's counter before yielding the core: about 100 us, or 1 us where it may be what the peer waits for."""
PAGE = 4096
PEER_ERRORS: tuple[type[Exception], ...] = (Absent,) if _kernel is None else (Absent, _kernel.PeerError)


class Engine(Protocol):
    """What works on a region: `_kernel.Region` or `plain.PlainRegion`. All methods but the last two are collective."""

    def barrier(self) -> None: ...
    def all_reduce(self, offset: int, count: int, dtype: int, op: int, divisor: int) -> None: ...
    def reduce_scatter(self, offset: int, count: int, dtype: int, op: int, divisor: int) -> None: ...
    def all_gather(self, offset: int, count: int, item_bytes: int) -> None: ...
    def broadcast(self, offset: int, size: int, root: int) -> None: ...
    def staged_all_reduce(self, source: int, target: int, count: int, dtype: int, op: int, divisor: int) -> None: ...
    def staged_reduce_scatter(
        self, source: int, target: int, count: int, dtype: int, op: int, divisor: int
    ) -> None: ...
    def staged_all_gather(self, source: int, target: int, size: int) -> None: ...
    def staged_broadcast(self, data: int, size: int, root: int) -> None: ...
    def staged_all_to_all(self, source: int, target: int, size: int) -> None: ...
    def set_timeout(self, seconds: float) -> None: ...
    def give_up(self) -> None: ...


@dataclass
class Region:
    """Shared memory of the ranks of one node.

    Attributes:
        comm: their communicator.
        window: the MPI window that owns the memory.
        segments: address of every rank's segment in this process: a header page, then `payload` bytes.
        payload: bytes a rank.
        engine: the collectives.
        patience: what waiting means here.
    """

    comm: Any
    window: Any
    segments: tuple[int, ...]
    payload: int
    engine: Engine
    patience: Patience

    @property
    def base(self) -> tuple[int, ...]:
        """Address of every rank's payload in this process."""
        return tuple(address + PAGE for address in self.segments)

    def close(self) -> None:
        """Gives the memory back. Collective; nothing that lies in it may be used afterwards."""
        if self.window is not None:
            window, self.window = self.window, None
            window.Unlock_all()  # MPICH refuses to free a window in use
            window.Free()


def kernel_name() -> str:
    """What works on shared memory here, with the reason. Local."""
    if _kernel is None:
        return "plain (no compiled kernel: there was no C compiler when ryzen_mpi was installed)"
    return "compiled kernel"


def watched(comm: Any) -> dict[int, int]:
    """Process ids of the other ranks of a node's communicator, where all can see them; else empty. Collective."""
    exchange = MpiExchange(comm)
    pids = exchange.allgather(os.getpid())
    # in containers of their own, ranks of a node may not see one another: then only the clock tells
    visible = all(_alive(pid) for pid in pids) and len(set(pids)) == comm.size
    if not all(exchange.allgather(visible)):
        return {}
    return {rank: pid for rank, pid in enumerate(pids) if rank != comm.rank}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def open_region(
    comm: Any, payload: int, timeout_s: float, plain: bool = False, names: Sequence[int] | None = None
) -> Region:
    """Shared memory of `payload` bytes a rank among the ranks of `comm`, which are on one node. Collective.

    `plain` asks for the version without the compiled kernel, on all ranks alike; `names` are the ranks as errors
    should name them. Raises UserError, on all ranks, where the node's shared memory is too small.
    """
    from mpi4py import MPI

    payload = -(-payload // PAGE) * PAGE
    names = tuple(range(comm.size) if names is None else names)
    _check_space(comm, payload + PAGE)
    info = MPI.Info.Create()
    info["alloc_shared_noncontig"] = "true"  # each rank's part on pages of its own
    window = MPI.Win.Allocate_shared(PAGE + payload, 1, info, comm)
    info.Free()
    segments = tuple(window.Shared_query(rank)[0].address for rank in range(comm.size))
    window.Shared_query(comm.rank)[0][:PAGE] = bytes(PAGE)
    window.Lock_all(MPI.MODE_NOCHECK)
    window.Sync()
    comm.Barrier()
    patience = Patience(timeout_s, watched(comm))
    alike = all(MpiExchange(comm).allgather(_kernel is not None and not plain))
    if alike:
        pids = tuple(patience.pids.get(rank, os.getpid()) for rank in range(comm.size)) if patience.pids else ()
        engine: Engine = _kernel.Region(comm.rank, segments, payload, timeout_s, _spins(comm), pids, names)
    else:
        from ryzen_mpi.comm.plain import PlainRegion

        def meet(limit_s: float) -> None:
            window.Sync()
            patience.finish(comm.Ibarrier(), limit_s)
            window.Sync()

        engine = PlainRegion(comm.rank, segments, payload, meet, names)
        engine.set_timeout(timeout_s)
    return Region(comm, window, segments, payload, engine, patience)


def _spins(comm: Any) -> int:
    """Spinning only makes sense where every rank has a core."""
    everyone = MpiExchange(comm).allgather(sorted(os.sched_getaffinity(0)))
    enough = len(set().union(*everyone)) >= comm.size
    return SPINS if enough else SPINS_WHEN_SHARING_CORES


def _check_space(comm: Any, segment: int) -> None:
    """Memory that is promised and not there ends a process with a bus error at first touch: ask before."""
    problem = None
    try:
        state = os.statvfs(SHARED_MEMORY)
        free = state.f_bavail * state.f_frsize
        if free < segment * comm.size:
            problem = UserError(
                f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, {comm.size} ranks of this node need "
                f"{segment * comm.size / 2**20:.0f} MiB",
                "containers get 64 MiB by default: --shm-size (Docker) or --ipc=host; or distributed.arena=false",
            )
    except OSError:
        pass  # no such file system: MPI keeps its segments elsewhere
    fail_together(MpiExchange(comm), problem)
