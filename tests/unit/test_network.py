"""The interface all ranks talk over, chosen from planted tables."""

from __future__ import annotations

import ipaddress

import pytest

from ryzen_mpi.cluster.network import choose, local_interfaces, wanted_interface
from ryzen_mpi.errors import UserError


def port(name: str, address: str, speed: int = 0, bits: int = 24) -> dict:
    network = str(ipaddress.ip_network(f"{address}/{bits}", strict=False))
    return {"name": name, "address": address, "network": network, "speed": speed}


LOOPBACK = port("lo", "127.0.0.1", bits=8)


def chosen(everyone: list, nodes: int, wanted: str | None = None) -> list[tuple[str, str]]:
    """(name, address) of every rank."""
    return [(i.name, i.address) for i in (choose(everyone, rank, nodes, wanted) for rank in range(len(everyone)))]


def test_on_one_node_nothing_leaves_it():
    table = [LOOPBACK, port("eth0", "10.0.0.1", 10000)]
    assert chosen([table, table], nodes=1) == [("lo", "127.0.0.1")] * 2


def test_one_node_without_a_loopback_uses_what_there_is():
    assert chosen([[port("eth0", "10.0.0.1")]] * 2, nodes=1) == [("eth0", "10.0.0.1")] * 2


def test_nodes_meet_on_the_network_they_share_whatever_its_name():
    everyone = [
        [LOOPBACK, port("eth0", "10.0.0.1"), port("eth1", "192.168.7.1")],
        [LOOPBACK, port("ens3", "10.0.0.2"), port("eth0", "172.16.0.1")],
    ]
    assert chosen(everyone, nodes=2) == [("eth0", "10.0.0.1"), ("ens3", "10.0.0.2")]
    assert "10.0.0.0/24 shared by all ranks" in choose(everyone, 0, 2).reason


def test_of_several_shared_networks_the_one_whose_slowest_end_is_fastest_wins():
    everyone = [
        [port("a", "10.0.0.1", 1000), port("b", "10.0.1.1", 100000), port("c", "10.0.2.1", 25000)],
        [port("a", "10.0.0.2", 1000), port("b", "10.0.1.2", 100), port("c", "10.0.2.2", 25000)],
    ]
    assert chosen(everyone, nodes=2) == [("c", "10.0.2.1"), ("c", "10.0.2.2")]
    assert "25000 Mbit/s" in choose(everyone, 1, 2).reason


def test_equal_networks_are_chosen_alike_on_every_rank():
    everyone = [
        [port("x", "10.0.1.1"), port("y", "10.0.0.1")],
        [port("y", "10.0.0.2"), port("x", "10.0.1.2")],
    ]
    assert chosen(everyone, nodes=2) == [("y", "10.0.0.1"), ("y", "10.0.0.2")]


def test_a_bridge_that_every_node_has_for_itself_is_no_shared_network():
    bridge = port("docker0", "172.17.0.1", 10000, bits=16)
    everyone = [
        [LOOPBACK, bridge, port("eth0", "10.0.0.1", 1000)],
        [LOOPBACK, bridge, port("eth0", "10.0.0.1", 1000)],
        [LOOPBACK, bridge, port("eth0", "10.0.0.2", 1000)],
    ]
    assert {name for name, _ in chosen(everyone, nodes=2)} == {"eth0"}


def test_ranks_without_a_shared_network_are_told_what_each_has():
    everyone = [[LOOPBACK, port("eth0", "10.0.0.1")], [LOOPBACK, port("eth0", "10.0.1.1")]]
    with pytest.raises(UserError, match=r"rank 0: .*10\.0\.0\.0/24; rank 1: .*10\.0\.1\.0/24") as caught:
        choose(everyone, 0, 2)
    assert "distributed.interface" in caught.value.hint


def test_a_name_given_by_hand_wins():
    everyone = [[LOOPBACK, port("eth0", "10.0.0.1"), port("ib0", "10.1.0.1")]] * 2
    assert chosen(everyone, nodes=1, wanted="ib0") == [("ib0", "10.1.0.1")] * 2


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(UserError, match="interface ib7 is not up") as caught:
        choose([[LOOPBACK, port("eth0", "10.0.0.1")]], 0, 1, "ib7")
    assert caught.value.hint == "interfaces here: eth0, lo"


def test_the_setting_wins_over_the_variable(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth9")
    assert wanted_interface("ib0") == "ib0"
    assert wanted_interface(None) == "eth9"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    assert wanted_interface(None) is None


def test_this_machine_has_a_loopback_that_is_up():
    assert any(item["address"] == "127.0.0.1" and item["speed"] >= 0 for item in local_interfaces())
