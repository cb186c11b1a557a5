"""Groups over several nodes, which are pretended: the ranks are told that fewer of them share memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch.distributed as dist

from ryzen_mpi.comm.arena import Locality


@contextmanager
def pretended(ranks_per_node: int) -> Iterator[dist.ProcessGroup]:
    """A group of all ranks whose nodes hold `ranks_per_node` (the last one fewer, where they do not divide)."""
    discover = Locality.discover.__func__
    smaller = classmethod(lambda cls, comm, _=None: discover(cls, comm, ranks_per_node))
    with mock.patch.object(Locality, "discover", smaller):
        group = dist.new_group(backend="ryzen")
    assert group.collectives.locality.nodes == -(-dist.get_world_size() // ranks_per_node)
    yield group
    dist.destroy_process_group(group)
