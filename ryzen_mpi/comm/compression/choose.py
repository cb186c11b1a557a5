"""Which compressor the settings ask for, and what an all-reduce sends without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ryzen_mpi.comm.arena import Locality
from ryzen_mpi.comm.compression.casts import Cast, ScaledCast
from ryzen_mpi.comm.compression.exact import Exact
from ryzen_mpi.comm.compression.powersgd import PowerSgd
from ryzen_mpi.comm.compression.topk import TopK
from ryzen_mpi.comm.compression.wire import Compressor, Wire
from ryzen_mpi.config import Distributed
from ryzen_mpi.errors import UserError

if TYPE_CHECKING:
    from ryzen_mpi.comm.membership import Membership

COMPRESSORS: dict[str, Callable[[Wire, Distributed], Compressor]] = {
    "none": lambda wire, settings: Exact(wire),
    "bfloat16": lambda wire, settings: Cast(wire),
    "float16": lambda wire, settings: ScaledCast(wire),
    "powersgd": lambda wire, settings: PowerSgd(wire, settings.compression_rank),
    "topk": lambda wire, settings: TopK(wire, settings.compression_share),
}


def make_compressor(settings: Distributed, group: Membership) -> Compressor | None:
    """That of `distributed.compression`, over the nodes of `group`; None where there is one node. Local."""
    across = group.collectives.locality.across
    if across is None:
        return None
    return COMPRESSORS[settings.compression](Wire(across, group.collectives.patience), settings)


def check_possible(settings: Distributed, group: Any) -> None:
    """Raises UserError where `group`, of several ranks, cannot tell which of them share a node. Local."""
    if settings.compression != "none" and not (settings.arena and hasattr(group, "arena")):
        raise UserError(
            f"distributed.compression={settings.compression} needs to know what crosses from node to node",
            "distributed.backend=mpi with distributed.arena=true, or distributed.compression=none",
        )


def all_reduce_bytes(locality: Locality, size: int) -> int:
    """What this rank sends to other nodes in an uncompressed all-reduce of `size` bytes that lie in an arena. Local."""
    if locality.even:
        size = -(-size // locality.node.size)
    elif locality.node.rank:
        return 0
    return 2 * size * (locality.nodes - 1) // locality.nodes
