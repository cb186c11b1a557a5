"""Checks of what a node is made of: planted trees and facts with something wrong are found, healthy ones pass."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ryzen_mpi.cluster.topology import cpulist_text
from ryzen_mpi.validation.checks import node
from ryzen_mpi.validation.checks.memory import judge_memory
from ryzen_mpi.validation.probes import memory, places

CPUS = 16  # two domains of four cores of two threads


def plant(root: Path) -> Path:
    for cpu in range(CPUS):
        folder = root / f"cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(cpulist_text({cpu % 8, cpu % 8 + 8}))
    for domain in range(2):
        folder = root / f"node/node{domain}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpulist_text({cpu for cpu in range(CPUS) if cpu % 8 // 4 == domain}))
        (folder / "meminfo").write_text(f"Node {domain} MemTotal:  {32 << 20} kB\nNode {domain} MemFree: 1 kB\n")
        (folder / "distance").write_text("10 21\n" if domain == 0 else "21 10\n")
    for name in ("present", "online"):
        (root / "cpu" / name).write_text(f"0-{CPUS - 1}\n")
    (root / "cpuinfo").write_text("model name\t: Planted 9000\n" * CPUS)
    return root


def of(findings, name):
    return next(figure for figure in findings.figures if figure.name == name).value


@pytest.fixture
def facts(tmp_path):
    root = plant(tmp_path)
    return {"host": "a"} | node.node_facts(root, root / "cpuinfo", set(range(CPUS)))


def test_cores_threads_and_domains_are_those_of_the_tree(facts):
    findings = node.judge_hardware([facts, facts | {"host": "b"}], 4)
    assert of(findings, "cores_per_node") == 8 and of(findings, "cores_per_rank") == 2
    assert of(findings, "threads_per_core") == 2 and not findings.problems
    assert "a: Planted 9000, 8 cores (4 in domain 0, 4 in domain 1; sysfs)" in findings.evidence[0]


def test_cores_that_are_off_or_not_ours_are_missed_and_named(tmp_path):
    root = plant(tmp_path)
    (root / "cpu/online").write_text("0-6,8-15\n")
    found = {"host": "a"} | node.node_facts(root, root / "cpuinfo", set(range(6)))
    findings = node.judge_hardware([found], 4)
    assert of(findings, "cores_per_node") == 6
    assert any("CPUs 7 are there and switched off" in line for line in findings.evidence)
    assert any("CPUs 6,8-15 are not given to this job" in line for line in findings.evidence)


@pytest.mark.parametrize("change", [{"model": "Planted 8000"}, {"cores": 7}, {"threads_per_core": 1}])
def test_nodes_that_are_not_alike_are_a_problem(facts, change):
    findings = node.judge_hardware([facts, facts | {"host": "b"} | change, facts | {"host": "c"}], 4)
    assert len(findings.problems) == 1 and "on a, c" in findings.problems[0] and "on b" in findings.problems[0]


# --- memory ----------------------------------------------------------------------------------------------------------

SIZE = 3 * memory.PIECE_BYTES + 4096
PLENTY = 1 << 50


def touched(size: int = SIZE, spare: int = PLENTY) -> memory.Touched:
    return memory.touch(size, lambda: spare, 1 << 30)


def told(done: memory.Touched, **changes: object) -> dict:
    return vars(done) | {"rank": 0, "host": "a", "node": 0, "capped": ""} | changes


def test_healthy_memory_raises_no_alarm():
    for _ in range(10):
        done = touched()
        assert (done.bytes, done.wrong_words, done.stopped) == (SIZE, 0, "")
        # pages of an earlier round that the process kept are resident before, and count less
        assert not judge_memory([told(done, resident_bytes=done.bytes)], SIZE).problems


def test_every_page_is_really_there_while_it_is_touched():
    size = 64 << 20
    assert touched(size).resident_bytes >= 0.99 * size


@pytest.mark.parametrize("place", [0, 131_072, SIZE // 8 - 1])
@pytest.mark.parametrize("passes", ["first", "second"])
def test_one_flipped_bit_is_found_with_its_place(monkeypatch, place, passes):
    honest = memory.compare

    def flipping(words, flipped, done):
        if flipped == (passes == "second"):
            words[place] ^= np.uint64(1 << 17)
        honest(words, flipped, done)

    monkeypatch.setattr(memory, "compare", flipping)
    done = touched()
    assert done.wrong_words == 1 and f"offset {8 * place} " in done.wrong[0] and "bit 17" in done.wrong[0]
    findings = judge_memory([told(done)], SIZE)
    assert "rank 0 on a: 1 words are not as they were written: offset" in findings.problems[0]


def test_a_stuck_bit_and_a_wrong_address_line_are_found(monkeypatch):
    class Stuck(np.ndarray):
        """Memory of which a bit cannot become 1, whatever is written."""

    honest = memory.write

    def stuck(words, first, flipped):
        honest(words, first, flipped)
        if isinstance(words, Stuck):
            words &= np.uint64(2**64 - 1 - (1 << 5))

    monkeypatch.setattr(memory, "allocate", lambda size: np.zeros(size // 8, dtype=np.uint64).view(Stuck))
    monkeypatch.setattr(memory, "write", stuck)
    done = touched()
    assert done.wrong_words == SIZE // 8  # a bit of every word, in one of the two passes
    monkeypatch.setattr(memory, "write", honest)

    def folded(words, flipped, done):
        words[:8] = words[512:520]  # two addresses of one cell
        honest_compare(words, flipped, done)

    honest_compare = memory.compare
    monkeypatch.setattr(memory, "compare", folded)
    assert touched().wrong_words == 16


def test_a_node_that_runs_short_is_not_driven_further():
    left = iter([1 << 31, (1 << 30) + (63 << 20)])
    done = memory.touch(256 << 20, lambda: next(left, 0), 1 << 30)
    assert done.bytes == memory.CHUNK_BYTES and "are kept back" in done.stopped and not done.wrong_words
    findings = judge_memory([told(done)], 256 << 20)
    assert of(findings, "touched_share") == 0.25 and not findings.problems and "kept back" in findings.evidence[0]


def test_more_than_there_can_be_is_refused_in_words():
    assert "refuses" in memory.touch(1 << 60, lambda: PLENTY, 0).stopped


def test_memory_that_was_swapped_out_is_a_problem():
    done = touched()
    assert "swaps" in judge_memory([told(done, resident_bytes=done.bytes // 2)], SIZE).problems[0]


# --- NUMA and affinity -----------------------------------------------------------------------------------------------

MAPS = """\
55d0c000 default file=/usr/bin/python3 mapped=2 N0=2 kernelpagesize_kB=4
7f0000000000 default anon=300 dirty=300 N0=100 N1=200 kernelpagesize_kB=4
7f0040000000 default anon=2 dirty=2 N1=2 kernelpagesize_kB=2048
7ffc00000000 default stack anon=3 dirty=3 N0=3 kernelpagesize_kB=4
"""


def test_numa_maps_tell_where_memory_lies():
    assert places.bytes_at(0x7F0000001000, 4096, MAPS.splitlines()) == {0: 100 * 4096, 1: 200 * 4096}
    assert places.bytes_at(0x7F0040000000, 4096, MAPS.splitlines()) == {1: 4 << 20}
    assert places.bytes_at(0x1000, 4096, MAPS.splitlines()) is None


def rank(number: int, cpus: list[int], **changes: object) -> dict:
    base = {"rank": number, "host": "a", "cpus": cpus, "of": [0], "bytes": {"0": 1 << 20}, "domains": {}}
    return base | changes


def test_memory_of_another_domain_and_ranks_over_two_are_found(tmp_path):
    domains = node.domain_table(plant(tmp_path))
    assert domains["1"] == {"cpus": "4-7,12-15", "memory_bytes": 32 << 30, "distances": [21, 10]}
    healthy = [rank(i, [i], domains=domains) for i in range(4)]
    findings = node.judge_numa(healthy)
    assert (of(findings, "local_memory"), of(findings, "ranks_in_one_domain"), of(findings, "domains")) == (1, 1, 2)
    remote = [*healthy[:3], rank(3, [4], bytes={"0": 3 << 18, "1": 1 << 18}, of=[1], domains=domains)]
    assert of(node.judge_numa(remote), "local_memory") == 0.25
    spread = [*healthy[:3], rank(3, [3, 4], of=[0, 1], domains=domains)]
    assert of(node.judge_numa(spread), "ranks_in_one_domain") == 0.75
    domains["1"]["memory_bytes"] = 0
    assert any("no memory of their own" in line for line in node.judge_numa(healthy).evidence)
    assert of(node.judge_numa([rank(0, [0], bytes=None)]), "local_memory") is None


def test_memory_this_process_touches_is_somewhere():
    found = places.bytes_by_domain(1 << 20)
    if not places.NUMA_MAPS.exists():
        assert found is None
    else:
        assert sum(found.values()) >= 1 << 20
    assert places.bytes_by_domain(1 << 20, Path("/nowhere")) is None


def bound(number: int, cpus: list[int], **changes: object) -> dict:
    base = {"rank": number, "host": "a", "bound": cpus, "allowed": cpus, "seen": {str(cpu): 9 for cpu in cpus}}
    return base | {"free": list(range(CPUS)), "reason": "launcher"} | changes


def test_ranks_on_cores_of_their_own_are_healthy(tmp_path):
    root = plant(tmp_path)
    ranks = [bound(i, [2 * i, 2 * i + 1, 2 * i + 8, 2 * i + 9]) for i in range(4)]
    for _ in range(10):
        findings = node.judge_affinity(ranks, root)
        assert not findings.problems and of(findings, "ranks_per_core") == 1
    assert of(findings, "ranks_not_where_bound") == 0


def test_a_wrong_binding_is_found(tmp_path):
    root = plant(tmp_path)
    same = node.judge_affinity([bound(0, [0]), bound(1, [1]), bound(2, [1])], root)
    assert of(same, "ranks_per_core") == 2
    assert "ranks 1 and 2 on a share cores, and CPUs 2-7,10-15 are idle" in same.problems[0]
    siblings = node.judge_affinity([bound(0, [0]), bound(1, [8])], root)  # two threads of one core
    assert of(siblings, "ranks_per_core") == 2
    strayed = node.judge_affinity([bound(0, [0]), bound(1, [1], seen={"1": 5, "0": 1})], root)
    assert strayed.problems == ["rank 1 on a ran on CPU 0, and is bound to 1"]
    loose = node.judge_affinity([bound(0, [0]), bound(1, [1], allowed=[1, 2, 3])], root)
    assert "may run on CPU 1-3, and is bound to 1" in loose.problems[0] and of(loose, "ranks_not_where_bound") == 1


def test_more_ranks_than_cores_is_a_figure_and_no_wrong_binding(tmp_path):
    ranks = [bound(i, [i % 2, i % 2 + 8], free=[0, 1, 8, 9]) for i in range(4)]
    findings = node.judge_affinity(ranks, plant(tmp_path))
    assert of(findings, "ranks_per_core") == 2 and not findings.problems


def test_threads_are_seen_where_they_run():
    free = os.sched_getaffinity(0)
    cpu = min(free)
    try:
        os.sched_setaffinity(0, {cpu})
        seen, allowed = places.running_on(0.1, 2)
    finally:
        os.sched_setaffinity(0, free)
    assert set(seen) == {cpu} and cpu in allowed
