"""Binding plans: whole cores of one domain, equal shares, the launcher's word kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ryzen_mpi.cluster import binding
from ryzen_mpi.cluster.topology import Topology, read_topology


def node(*sizes: int, threads: int = 2) -> Topology:
    """A node with domains of `sizes` cores, each of `threads` logical CPUs."""
    total = sum(sizes)
    cores = tuple(tuple(core + total * thread for thread in range(threads)) for core in range(total))
    domains, start = {}, 0
    for domain, size in enumerate(sizes):
        domains[domain] = tuple(range(start, start + size))
        start += size
    return Topology(cores, domains, "planted")


def everything(topology: Topology) -> list[int]:
    return sorted(cpu for core in topology.cores for cpu in core)


def unbound(topology: Topology, ranks: int, bind: str = "auto") -> list[binding.Binding]:
    return binding.plan([everything(topology)] * ranks, topology, bind)


nodes = st.builds(
    lambda sizes, threads: node(*sizes, threads=threads),
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
    st.integers(1, 2),
)


@settings(deadline=None)
@given(nodes, st.integers(1, 40))
def test_an_unbound_rank_gets_whole_cores_of_one_domain_and_all_get_as_many(topology, ranks):
    plan = unbound(topology, ranks)
    assert len(plan) == ranks
    if len(topology.cores) > 1:
        for b in plan:
            assert b.cpus and b.domain is not None and not b.reason.startswith("launcher")
            cores = [core for core in topology.cores if set(core) & set(b.cpus)]
            assert all(set(core) <= set(b.cpus) for core in cores), "half a core"
            assert b.threads == len(cores)
    assert len({b.threads for b in plan}) == 1


@settings(deadline=None)
@given(nodes, st.integers(1, 40))
def test_cores_are_shared_only_where_there_are_more_ranks_than_cores(topology, ranks):
    plan = unbound(topology, ranks)
    used = [cpu for b in plan for cpu in b.cpus]
    scarce = ranks > len(topology.cores)
    assert any(b.shared for b in plan) == scarce == (len(used) > len(set(used)))
    assert any("share" in text for text in binding.warnings(plan, topology)) == scarce


@settings(deadline=None)
@given(nodes, st.integers(1, 40))
def test_more_ranks_than_cores_are_spread_evenly(topology, ranks):
    crowd = [sum(b.cpus[0] in core for b in unbound(topology, ranks)) for core in topology.cores]
    if ranks >= len(topology.cores):
        assert max(crowd) - min(crowd) <= 1


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16])
def test_where_ranks_fill_a_regular_node_nothing_is_idle(ranks):
    topology = node(4, 4, 4, 4)
    plan = unbound(topology, ranks)
    assert all(b.threads == min(4, 16 // ranks) for b in plan)
    assert len({b.cpus for b in plan}) == ranks
    assert any("idle" in text for text in binding.warnings(plan, topology)) == (ranks < 4)


def test_two_ranks_of_a_node_with_two_domains_get_a_domain_each():
    assert [b.domain for b in unbound(node(4, 4), 2)] == [0, 1]


def test_ranks_that_do_not_fill_a_node_are_spread_over_its_domains():
    assert [b.domain for b in unbound(node(4, 4), 6)] == [0, 0, 0, 1, 1, 1]
    assert [b.domain for b in unbound(node(4, 4, 4, 4), 6)] == [0, 0, 1, 1, 2, 3]


def test_an_uneven_allocation_is_divided_without_sharing():
    plan = unbound(node(1, 3, threads=1), 4)
    assert [b.cpus for b in plan] == [(0,), (1,), (2,), (3,)]


def test_what_the_launcher_bound_stays():
    topology = node(4, 4)
    masks = [[0, 8], [1, 9], [4, 12], [5, 13]]
    plan = binding.plan(masks, topology)
    assert [list(b.cpus) for b in plan] == masks
    assert {b.reason for b in plan} == {"launcher"} and not any(b.shared for b in plan)
    assert [b.domain for b in plan] == [0, 0, 1, 1]
    assert "4 of 8 cores are idle" in binding.warnings(plan, topology)[0]


def test_map_by_numa_masks_are_divided_among_their_ranks():
    topology = node(4, 4)
    masks = [[cpu for cpu in everything(topology) if (cpu % 8 < 4) == (rank % 2 == 0)] for rank in range(4)]
    plan = binding.plan(masks, topology)
    assert [b.cpus for b in plan] == [(0, 1, 8, 9), (4, 5, 12, 13), (2, 3, 10, 11), (6, 7, 14, 15)]
    assert {b.reason for b in plan} == {"launcher's set, divided"}
    assert not binding.warnings(plan, topology)


def test_ranks_bound_to_the_threads_of_one_core_share_it():
    plan = binding.plan([[0], [8]], node(4, 4))
    assert [b.cpus for b in plan] == [(0,), (8,)]
    assert all(b.shared for b in plan)


def test_a_launcher_that_binds_across_domains_is_warned_of():
    topology = node(2, 2, threads=1)
    plan = binding.plan([[0, 1, 2], [3]], topology)
    assert plan[0].domain is None
    assert any("[0] span several NUMA domains" in text for text in binding.warnings(plan, topology))


def test_bind_none_leaves_every_rank_as_it_was_started():
    topology = node(4, 4)
    for b in unbound(topology, 3, "none"):
        assert list(b.cpus) == everything(topology) and b.shared and "bind=none" in b.reason


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_apply_moves_the_process_with_the_threads_it_has():
    code = """
import os, threading
from pathlib import Path
from ryzen_mpi.cluster import binding
threading.Thread(target=threading.Event().wait, daemon=True).start()
cpu = max(os.sched_getaffinity(0))
binding.apply(binding.Binding((cpu,), 0, 1, False, "test"))
tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
assert len(tasks) > 1
print(all(os.sched_getaffinity(task) == {cpu} for task in tasks))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "True", done.stderr


def test_this_machine_can_be_divided():
    topology = read_topology()
    plan = binding.plan([everything(topology)] * 2, topology)
    assert len({b.threads for b in plan}) == 1


def test_only_mpirun_is_asked_what_the_job_may_use(monkeypatch):
    monkeypatch.delenv("OMPI_COMM_WORLD_RANK", raising=False)
    assert binding.launcher_cpus() == set()
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert binding.launcher_cpus()
