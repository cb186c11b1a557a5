"""Nodes that are pretended: the ranks are told that fewer of them share memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch.distributed as dist

from ryzen_mpi.comm.arena import Locality


@contextmanager
def pretended(ranks_per_node: int) -> Iterator[Any]:
    """A group of all ranks on nodes of so many (the last one fewer, where they do not divide). Collective."""
    discover = Locality.discover.__func__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Locality, "discover", classmethod(lambda cls, comm, ranks=None: discover(cls, comm, ranks_per_node))
        )
        group = dist.new_group(backend="ryzen")
        yield group
        dist.destroy_process_group(group)
