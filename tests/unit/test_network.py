"""The interface all ranks talk over, chosen from planted tables."""

from __future__ import annotations

import ipaddress

import pytest

from ryzen_mpi.cluster.network import (
    Ends,
    choose,
    choose_preferred,
    interfaces_without_carrier,
    local_interfaces,
    problem_of,
    wanted_interface,
)
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


TWO_NODES = [
    Ends("node1", [LOOPBACK, port("ib0", "10.1.0.1"), port("eth0", "10.0.0.1")], []),
    Ends("node2", [LOOPBACK, port("eth0", "10.0.0.2")], ["ib0", "eth7"]),
]


def test_an_interface_serves_where_all_ranks_have_it_up():
    assert problem_of("eth0", TWO_NODES) is None
    assert problem_of("ib0", TWO_NODES) == "no carrier on node2"
    assert problem_of("eth7", TWO_NODES).startswith("none of that name, or without an address, on node1, no carrier on")


def test_the_first_preferred_interface_that_works_is_taken_and_the_others_told():
    for rank, address in enumerate(("10.0.0.1", "10.0.0.2")):
        taken = choose_preferred(["ib0", "eth0"], TWO_NODES, rank, lambda name: None)
        assert (taken.name, taken.address, taken.reason) == ("eth0", address, "ib0: no carrier on node2")
    assert choose_preferred(["eth0", "ib0"], TWO_NODES, 0, lambda name: None).reason.startswith("the first")


def test_an_interface_that_is_up_and_reaches_nobody_is_passed_over():
    ends = [TWO_NODES[0], Ends("node2", [port("ib0", "10.1.0.2"), port("eth0", "10.0.0.2")], [])]
    asked = []

    def meets(name: str) -> str | None:
        asked.append(name)
        return "node2 does not reach 10.1.0.1 (timed out)" if name == "ib0" else None

    taken = choose_preferred(["ib1", "ib0", "eth0"], ends, 1, meets)
    assert taken.name == "eth0" and asked == ["ib0", "eth0"]
    assert "ib1: none of that name" in taken.reason and "ib0: node2 does not reach" in taken.reason


def test_where_none_of_the_preferred_interfaces_works_each_is_told_with_its_reason():
    with pytest.raises(UserError, match=r"ib0: no carrier on node2; eth0: cut") as caught:
        choose_preferred(["ib0", "eth0"], TWO_NODES, 0, lambda name: "cut")
    assert caught.value.hint == "interfaces that are up on rank 0: eth0, ib0, lo"


def test_this_machines_loopback_has_a_carrier():
    assert "lo" not in interfaces_without_carrier()


def test_this_machine_has_a_loopback_that_is_up():
    assert any(item["address"] == "127.0.0.1" and item["speed"] >= 0 for item in local_interfaces())
