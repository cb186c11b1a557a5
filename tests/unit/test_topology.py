"""Topology and memory, read from planted sysfs and cgroup trees."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryzen_mpi.cluster import topology
from ryzen_mpi.cluster.topology import cpulist_text, parse_cpulist, read_memory, read_topology

CPUS = 32  # 2 packages x 2 NUMA domains x 4 cores x 2 hardware threads; thread 2 of core c is CPU c + 16


def plant(root: Path, offline: tuple[int, ...] = ()) -> Path:
    for cpu in range(CPUS):
        folder = root / f"cpu/cpu{cpu}/topology"
        folder.parent.mkdir(parents=True)
        if cpu not in offline:  # the kernel removes the topology of an offline CPU
            folder.mkdir()
            threads = {cpu % 16, cpu % 16 + 16} - set(offline)
            (folder / "thread_siblings_list").write_text(cpulist_text(threads) + "\n")
    for node in range(4):
        (root / f"node/node{node}").mkdir(parents=True)
        cpus = {cpu for cpu in range(CPUS) if cpu % 16 // 4 == node} - set(offline)
        (root / f"node/node{node}/cpulist").write_text(cpulist_text(cpus) + "\n")
    return root


def test_two_packages_of_two_domains_of_four_cores(tmp_path):
    found = read_topology(range(CPUS), plant(tmp_path))
    assert found.cores == tuple((core, core + 16) for core in range(16))
    assert found.domains == {node: tuple(range(4 * node, 4 * node + 4)) for node in range(4)}
    assert found.reason == "sysfs"
    assert found.domain_of([0, 31]) == {0, 3}


def test_only_what_this_process_may_use_counts(tmp_path):
    found = read_topology({2, 3, 4, 20}, plant(tmp_path))
    assert found.cores == ((2,), (3,), (4, 20))
    assert found.domains == {0: (0, 1), 1: (2,)}


def test_an_offline_sibling_leaves_a_core_with_one_thread(tmp_path):
    offline = (17, *range(28, 32), *range(12, 16))  # one sibling, and the whole of domain 3
    found = read_topology(set(range(CPUS)) - set(offline), plant(tmp_path, offline))
    assert found.cores[:3] == ((0, 16), (1,), (2, 18))
    assert list(found.domains) == [0, 1, 2]


def test_a_domain_of_memory_alone_is_none(tmp_path):
    plant(tmp_path)
    (tmp_path / "node/node4").mkdir()
    (tmp_path / "node/node4/cpulist").write_text("\n")
    assert list(read_topology(range(CPUS), tmp_path).domains) == [0, 1, 2, 3]


@pytest.mark.parametrize("missing", ["node", "node/node2"])
def test_without_whole_numa_tables_the_node_is_one_domain_and_says_so(tmp_path, missing):
    shutil.rmtree(plant(tmp_path) / missing)
    found = read_topology(range(CPUS), tmp_path)
    assert found.domains == {0: tuple(range(16))}
    assert "no NUMA domains" in found.reason


def test_without_any_sysfs_every_cpu_is_a_core(tmp_path):
    found = read_topology({3, 5}, tmp_path)
    assert found.cores == ((3,), (5,))


def test_this_machine_has_a_topology():
    found = read_topology()
    assert found.cores and sorted(c for d in found.domains.values() for c in d) == list(range(len(found.cores)))


@given(st.sets(st.integers(0, 300)))
def test_a_cpulist_is_read_back_as_it_was_written(cpus):
    assert parse_cpulist(cpulist_text(cpus)) == cpus


def test_a_cpulist_is_written_as_the_kernel_does():
    assert cpulist_text([8, 0, 1, 2]) == "0-2,8"
    assert parse_cpulist("0-3,8\n") == {0, 1, 2, 3, 8}


# --- memory --------------------------------------------------------------------------------------------------


def own_group(monkeypatch, tmp_path, line: str) -> None:
    """Lets /proc/self/cgroup hold `line`."""
    (tmp_path / "cgroup").write_text(line)

    class Planted(type(Path())):
        def __new__(cls, path, *more):
            return Path(tmp_path / "cgroup" if path == "/proc/self/cgroup" else path, *more)

    monkeypatch.setattr(topology, "Path", Planted)


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/slurm/job_7/step_0\n", "slurm/job_7/memory.max"),
        ("4:memory:/slurm/job_7\n3:cpu:/elsewhere\n", "memory/slurm/memory.limit_in_bytes"),
    ],
    ids=["version 2", "version 1"],
)
def test_the_tightest_cgroup_above_limits_memory(tmp_path, monkeypatch, line, file):
    own_group(monkeypatch, tmp_path, line)
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(f"{64 << 20}\n")
    (tmp_path / "memory.max").write_text("max\n")
    found = read_memory(tmp_path)
    assert found.total_bytes == found.available_bytes == 64 << 20
    assert str(tmp_path / file) in found.reason


def test_without_a_limit_the_machine_counts(tmp_path):
    found = read_memory(tmp_path)
    assert found.reason == "MemTotal" and 0 < found.available_bytes <= found.total_bytes
