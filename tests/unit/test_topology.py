"""Topology and memory, read from planted sysfs and cgroup trees."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def plant_node(root: Path, groups: str) -> Path:
    """A /proc with 100 MiB of memory, 80 of them available, and this process in `groups`."""
    (root / "self").mkdir(parents=True)
    (root / "self/cgroup").write_text(groups)
    (root / "meminfo").write_text(f"MemTotal:  {100 << 10} kB\nMemFree: 1 kB\nMemAvailable:   {80 << 10} kB\n")
    return root


VERSIONS = pytest.mark.parametrize(
    ("line", "group", "limit", "used", "hierarchy"),
    [
        ("0::/slurm/job_7/step_0\n", "slurm/job_7", "memory.max", "memory.current", ""),
        (
            "4:memory:/slurm/job_7\n3:cpu:/elsewhere\n",
            "memory/slurm",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_",
        ),
    ],
    ids=["version 2", "version 1"],
)


@VERSIONS
def test_the_tightest_cgroup_above_limits_memory(tmp_path, line, group, limit, used, hierarchy):
    proc, groups = plant_node(tmp_path / "proc", line), tmp_path / "cgroup"
    (groups / group).mkdir(parents=True)
    (groups / group / limit).write_text(f"{64 << 20}\n")
    (groups / "memory.max").write_text("max\n")
    found = read_memory(groups, proc)
    assert found.total_bytes == found.available_bytes == 64 << 20
    assert str(groups / group / limit) in found.reason


@VERSIONS
def test_what_a_cgroup_uses_is_not_available_but_for_files_in_memory(tmp_path, line, group, limit, used, hierarchy):
    proc, folder = plant_node(tmp_path / "proc", line), tmp_path / "cgroup" / group
    folder.mkdir(parents=True)
    (folder / limit).write_text(f"{64 << 20}\n")
    (folder / used).write_text(f"{60 << 20}\n")
    assert read_memory(tmp_path / "cgroup", proc).available_bytes == 4 << 20
    counts = {"active_file": 1 << 20, "inactive_file": 2 << 20, "inactive_anon": 40 << 20}
    (folder / "memory.stat").write_text("".join(f"{hierarchy}{key} {value}\n" for key, value in counts.items()))
    assert read_memory(tmp_path / "cgroup", proc).available_bytes == 7 << 20


def test_of_all_groups_above_the_fullest_counts(tmp_path):
    """A step may have room under its own limit while its job, whose limit is larger, is full."""
    proc = plant_node(tmp_path / "proc", "0::/job/step\n")
    for group, limit, used in (("job", 60, 59), ("job/step", 50, 10)):
        (tmp_path / group).mkdir()
        (tmp_path / group / "memory.max").write_text(f"{limit << 20}\n")
        (tmp_path / group / "memory.current").write_text(f"{used << 20}\n")
    found = read_memory(tmp_path, proc)
    assert (found.total_bytes, found.available_bytes) == (50 << 20, 1 << 20)


@pytest.mark.parametrize("limit", ["max", 9223372036854771712], ids=["version 2", "version 1"])
def test_a_group_without_a_limit_does_not_limit(tmp_path, limit):
    proc = plant_node(tmp_path / "proc", "0::/job\n4:memory:/job\n")
    for name in ("job/memory.max", "memory/job/memory.limit_in_bytes"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"{limit}\n")
    found = read_memory(tmp_path, proc)
    assert (found.total_bytes, found.available_bytes, found.reason) == (100 << 20, 80 << 20, "MemTotal")


def test_this_machine_has_memory():
    found = read_memory()
    assert 0 < found.available_bytes <= found.total_bytes
