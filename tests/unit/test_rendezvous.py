"""Whether the nodes meet over an interface, asked over real sockets by threads that stand for ranks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from threads import Threads

from ryzen_mpi.cluster.world import World
from ryzen_mpi.comm import rendezvous
from ryzen_mpi.config import Distributed


def problems(addresses: list[str]) -> list[str | None]:
    """What every rank is told, with each rank on a node of its own."""
    size = len(addresses)
    exchange = Threads(size)

    def one(rank: int):
        exchange._rank.value = rank
        world = World(rank, size, 0, 1, rank, size, f"node{rank}", "threads", exchange)
        return rendezvous._meeting_problem(world, addresses)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


def test_nodes_that_reach_rank_0_meet():
    assert problems(["127.0.0.1", "127.0.0.2", "127.0.0.3"]) == [None] * 3


def test_a_node_that_does_not_is_named_on_all_ranks():
    told = problems(["127.0.0.1", "127.0.0.2", "203.0.113.9"])  # not an address of this machine
    assert len(set(told)) == 1 and told[0].startswith("node2 does not reach 127.0.0.1 (")


def test_an_address_rank_0_has_lost_is_told():
    assert problems(["203.0.113.9", "127.0.0.2"]) == ["203.0.113.9 on node0 cannot be listened on"] * 2


def test_one_interface_and_several_are_not_given_together():
    assert Distributed(interfaces="ib0").interfaces == ("ib0",)
    with pytest.raises(ValueError, match="exclude one another"):
        Distributed(interface="eth0", interfaces=["ib0", "eth0"])
