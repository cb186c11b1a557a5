"""What a rank sees of its machine: each name from a planted /proc and /sys, reckoned by hand, or why it is not told."""

from __future__ import annotations

import math
import os
import resource
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ryzen_mpi.cluster import gauges as module
from ryzen_mpi.cluster import kernel, sensors
from ryzen_mpi.cluster.gauges import COUNTED, NAMES, Gauges, make_readers
from ryzen_mpi.metrics.signals import of_kind

RATES = ("switches", "preemptions", "runqueue_share", "major_faults", "power_w")
EVERYWHERE = {*NAMES} - {"clock_hz", "temperature_c", "throttles", "power_w"}
"""What every Linux tells; PSI may be switched off when the kernel is built."""
GIB = 1 << 30


def put(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


class Machine:
    """A planted node: two NUMA domains of two CPUs, two interfaces, all sensors; and a clock that stands still."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc, self.sys, self.now = root / "proc", root / "sys", 1000.0
        self.usage = SimpleNamespace(ru_nvcsw=500, ru_nivcsw=70, ru_majflt=3)
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr(resource, "getrusage", lambda whose: self.usage)
        self.retransmits(100)
        self.packets(lo=9, eth0=5, ib0=0)
        self.threads({11: 4_000_000_000, 12: 1_000_000_000})
        put(self.proc / "self/status", "Name:\tx\nVmRSS:\t  900 kB\nRssShmem:\t     64 kB\nVmSwap:\t      12 kB")
        put(self.proc / "self/cgroup", "0::/job\n4:memory:/job")
        put(self.proc / "meminfo", "MemTotal:  8388608 kB\nMemFree:   1048576 kB\nMemAvailable:  6291456 kB")
        for resource_name, share in (("cpu", 25.5), ("memory", 1.25), ("io", 0.5)):
            self.pressure(self.proc / "pressure" / resource_name, share)
        for node in range(2):
            put(self.sys / f"devices/system/node/node{node}/cpulist", f"{2 * node}-{2 * node + 1}")
            lines = (f"Node {node} MemTotal:  4194304 kB", f"Node {node} MemFree:  {(node + 1) << 20} kB")
            put(self.sys / f"devices/system/node/node{node}/meminfo", "\n".join(lines))
        for cpu in range(4):
            put(self.sys / f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", 1_000_000 * (cpu + 1))
            self.throttles(cpu, 40)
        put(self.sys / "class/hwmon/hwmon0/name", "k10temp")
        put(self.sys / "class/hwmon/hwmon0/temp1_input", 61500)
        put(self.sys / "class/hwmon/hwmon0/temp2_input", 74250)
        put(self.sys / "class/powercap/intel-rapl:0/name", "package-0")
        put(self.sys / "class/powercap/intel-rapl:0/max_energy_range_uj", 1000_000_000)
        self.energy(900_000_000)

    def retransmits(self, count: int) -> None:
        put(self.proc / "net/snmp", f"Ip: A B\nIp: 1 2\nTcp: InSegs RetransSegs InErrs\nTcp: 7 {count} 1")

    def packets(self, **lost: int) -> None:
        """Interface -> lost in each of the four ways."""
        lines = [f"  {name}: 1 2 {n} {n} 5 6 7 8 9 10 {n} {n} 13 14 15 16" for name, n in lost.items()]
        put(self.proc / "net/dev", "\n".join(["Inter-| Receive", " face |bytes", *lines]))

    def threads(self, waited_ns: dict[int, int]) -> None:
        shutil.rmtree(self.proc / "self/task", ignore_errors=True)
        for thread, waited in waited_ns.items():
            put(self.proc / f"self/task/{thread}/schedstat", f"123 {waited} 5")

    def pressure(self, path: Path, percent: float) -> None:
        put(path, f"some avg10={percent} avg60=9.00 avg300=9.00 total=1\nfull avg10=99.00 avg60=9.00 total=1")

    def throttles(self, cpu: int, count: int) -> None:
        put(self.sys / f"devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count", count)
        put(self.sys / f"devices/system/cpu/cpu{cpu}/thermal_throttle/package_throttle_count", 2)

    def energy(self, microjoules: int) -> None:
        put(self.sys / "class/powercap/intel-rapl:0/energy_uj", microjoules)

    def readers(self, *cpus: int) -> dict:
        return make_readers(self.sys, self.proc, frozenset(cpus or (0, 1)), self.sys)

    def gauges(self) -> Gauges:
        """Of a rank on domain 0; looks when it is told to."""
        return Gauges(60.0, self.sys, self.proc, [0, 1])


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def looks(gauges: Gauges, machine: Machine, seconds: float = 10.0):
    """A function that lets time pass, looks, and gives the newest values by name."""
    readers = machine.readers()

    def look() -> dict[str, float]:
        gauges._look(readers)
        machine.now += seconds
        return dict(zip(NAMES, gauges.newest(), strict=True))

    return look


def wait_for(gauges: Gauges, taken: int) -> None:
    latest = time.monotonic() + 30
    while gauges.taken < taken:
        assert time.monotonic() < latest, f"{gauges.taken} looks"
        time.sleep(0.005)


def test_every_name_is_a_signal_and_has_its_reader(machine):
    assert tuple(machine.readers()) == NAMES
    assert {f"rank_{name}" for name in NAMES} | {"rank_beats"} == {signal.name for signal in of_kind("rank_sample")}
    assert set(COUNTED) < set(NAMES)


def test_every_name_has_the_value_reckoned_by_hand(machine):
    look = looks(machine.gauges(), machine)
    first = look()
    assert [first[name] for name in COUNTED] == [0.0, 0.0, 0.0]
    assert all(math.isnan(first[name]) for name in RATES)
    machine.retransmits(107)
    machine.packets(lo=90, eth0=6, ib0=2)
    machine.threads({11: 4_500_000_000, 12: 3_000_000_000, 13: 9_000_000_000})
    machine.usage = SimpleNamespace(ru_nvcsw=1500, ru_nivcsw=100, ru_majflt=8)
    machine.throttles(1, 43)
    machine.throttles(3, 1000)
    machine.energy(150_000_000)
    assert look() == {
        "retransmits": 7,
        "packets_lost": 4 * (1 + 2),  # the loopback's do not count
        "shared_bytes": 64 << 10,
        "switches": 100.0,
        "preemptions": 3.0,
        "runqueue_share": pytest.approx(0.25),  # thread 13 is new
        "major_faults": 0.5,
        "swap_bytes": 12 << 10,
        "numa_used_bytes": 3 * GIB,
        "numa_free_bytes": 1 * GIB,
        "memory_available_bytes": 6 * GIB,
        "memory_limit_bytes": 8 * GIB,
        "cpu_pressure": 0.255,
        "memory_pressure": 0.0125,
        "io_pressure": 0.005,
        "clock_hz": 1.5e9,  # of CPUs 0 and 1
        "temperature_c": 74.25,
        "throttles": 3,  # CPU 3 is not this rank's
        "power_w": pytest.approx(25.0),  # the counter began again at 1000 J: 100 J before and 150 J after
    }


ABSENT = {
    "net/snmp": ("retransmits",),
    "net/dev": ("packets_lost",),
    "self/status": ("shared_bytes", "swap_bytes"),
    "self/task": ("runqueue_share",),
    "meminfo": ("memory_available_bytes", "memory_limit_bytes"),
    "pressure/cpu": ("cpu_pressure",),
    "pressure/memory": ("memory_pressure",),
    "pressure/io": ("io_pressure",),
    "devices/system/node/node0/meminfo": ("numa_used_bytes", "numa_free_bytes"),
}


@pytest.mark.parametrize("path", ABSENT)
def test_what_is_not_there_is_nan_with_the_file_as_its_reason_and_the_rest_is_told(machine, path):
    for root in (machine.proc, machine.sys):
        gone = root / path
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
    gauges = machine.gauges()
    look = looks(gauges, machine)
    look()
    seen = look()
    assert {name for name, value in seen.items() if math.isnan(value)} == set(gauges.reasons) == set(ABSENT[path])
    assert all(path in reason and "No such file" in reason for reason in gauges.reasons.values())


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        ("devices/system/cpu", "clock_hz", "neither cpufreq"),
        ("class/hwmon", "temperature_c", "no sensor of a processor"),
        ("devices/system/cpu", "throttles", "no thermal_throttle"),
        ("class/powercap", "power_w", "no RAPL"),
        ("devices/system/node/node1/cpulist", "numa_free_bytes", "tells no NUMA domains"),
    ],
)
def test_sensors_and_domains_that_are_not_there_say_why(machine, path, name, words):
    gone = machine.sys / path
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    gauges = machine.gauges()
    gauges._look(machine.readers(0, 1, 2, 3))
    assert words in gauges.reasons[name] and math.isnan(gauges.newest()[NAMES.index(name)])


@pytest.mark.parametrize(
    ("path", "text", "name", "words"),
    [
        ("net/snmp", "Udp: A\nUdp: 1", "retransmits", "no Tcp in"),
        ("self/status", "Name:\tx", "swap_bytes", "no VmSwap in"),
        ("self/task/11/schedstat", "not kept", "runqueue_share", "no schedstat in"),
        ("pressure/io", "full of nothing", "io_pressure", "no avg10 in"),
        ("net/dev", "a\nb\n eth0: one two", "packets_lost", "ValueError"),
    ],
)
def test_a_file_of_another_form_is_a_reason_too(machine, path, text, name, words):
    put(machine.proc / path, text)
    gauges = machine.gauges()
    gauges._look(machine.readers())
    assert words in gauges.reasons[name]


def test_a_rank_on_two_domains_has_the_memory_of_both(machine):
    readers = machine.readers(1, 2)
    assert readers["numa_free_bytes"]() == 3 * GIB and readers["numa_used_bytes"]() == 5 * GIB


@pytest.mark.parametrize(
    ("files", "hierarchy"),
    [
        (("job/memory.max", "job/memory.current", "job/memory.stat"), ""),
        (("job/memory.limit_in_bytes", "job/memory.usage_in_bytes", "job/memory.stat"), "total_"),
    ],
    ids=["version 2", "version 1"],
)
def test_a_cgroup_near_its_limit_leaves_little_on_an_empty_node(machine, files, hierarchy):
    root = machine.sys / ("fs/cgroup/memory" if hierarchy else "fs/cgroup")
    for name, value in zip(files, (2 * GIB, 2 * GIB - 4096, f"{hierarchy}inactive_file 8192"), strict=True):
        put(root / name, value)
    readers = machine.readers()
    assert readers["memory_limit_bytes"]() == 2 * GIB and readers["memory_available_bytes"]() == 4096 + 8192


def test_a_cgroups_own_pressure_goes_before_the_nodes(machine):
    machine.pressure(machine.sys / "fs/cgroup/job/memory.pressure", 60.0)
    machine.pressure(machine.sys / "fs/cgroup/cpu.pressure", 10.0)
    assert [machine.readers()[f"{what}_pressure"]() for what in ("cpu", "memory", "io")] == [0.1, 0.6, 0.005]


def test_pressure_that_is_switched_off_can_be_opened_and_not_read(machine, monkeypatch):
    def refused(handle, size):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "read", refused)
    with pytest.raises(OSError, match=r"Operation not supported.*pressure/cpu"):
        kernel.pressure("cpu", proc=machine.proc)


def test_a_counter_that_begins_anew_counts_from_nothing(machine):
    look = looks(machine.gauges(), machine)
    look()
    machine.packets(eth0=1)  # set up again; ib0 is gone
    assert look()["packets_lost"] == 4
    machine.packets(eth0=1, ib0=50)  # back, with a past that nobody saw
    assert look()["packets_lost"] == 0


def test_power_is_not_told_where_nobody_tells_after_what_the_counter_begins_again(machine):
    (machine.sys / "class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    look = looks(machine.gauges(), machine)
    look()
    machine.energy(10)
    assert math.isnan(look()["power_w"])
    machine.energy(50_000_010)
    assert look()["power_w"] == pytest.approx(5.0)


def test_who_asks_rarely_misses_no_event_and_who_asks_often_is_told_the_same(machine):
    gauges, readers = machine.gauges(), machine.readers()
    for count in (100, 103, 105, 106):
        machine.retransmits(count)
        gauges._look(readers)
    assert gauges.newest()[0] == gauges.newest()[0] == 6
    gauges._look(readers)
    assert gauges.newest()[0] == 0


def test_a_file_that_fails_once_costs_no_event(machine):
    gauges = machine.gauges()
    look = looks(gauges, machine)
    look()
    snmp = machine.proc / "net/snmp"
    kept = snmp.rename(snmp.with_name("kept"))
    assert look()["retransmits"] == 0 and "net/snmp" in gauges.reasons["retransmits"]
    kept.rename(snmp)
    machine.retransmits(140)
    assert look()["retransmits"] == 40


def test_what_is_not_there_at_first_is_not_asked_for_again_and_its_reason_stays(machine, monkeypatch):
    asked = []

    def readers(*places):
        def missing():
            asked.append(1)
            raise kernel.Untold(f"asked {len(asked)} times")

        return {name: lambda: 1.0 for name in NAMES} | {"power_w": missing}

    monkeypatch.setattr(module, "make_readers", readers)
    gauges = Gauges(0.001)
    gauges.start()
    wait_for(gauges, 5)
    gauges.close()
    assert len(asked) == 1 and gauges.reasons == {"power_w": "asked 1 times"}


@pytest.mark.parametrize("where", ["make_readers", "_why"])
def test_an_error_of_our_own_ends_the_gauges_and_nothing_else(machine, monkeypatch, where):
    real = getattr(module, where)

    def broken(*given):
        monkeypatch.setattr(module, where, real)
        raise RuntimeError("a bug")

    (machine.proc / "net/snmp").unlink()
    monkeypatch.setattr(module, where, broken)
    gauges = machine.gauges()
    gauges.start()
    gauges._thread.join(30)
    assert not gauges._thread.is_alive()
    assert all(map(math.isnan, gauges.newest())) and gauges.reasons == dict.fromkeys(NAMES, "RuntimeError: a bug")
    gauges.close()


def test_closing_wakes_a_thread_that_waits_and_needs_none(machine):
    never = machine.gauges()
    never.close()
    gauges = machine.gauges()
    assert len(gauges.newest()) == len(NAMES) and all(map(math.isnan, gauges.newest()))
    gauges.start()
    wait_for(gauges, 1)
    gauges.close()  # the interval is a minute
    assert not gauges._thread.is_alive() and gauges.taken == 1


def test_this_machine_tells_what_any_linux_tells():
    gauges = Gauges(0.02)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    gauges.start()
    wait_for(gauges, 3)
    gauges.close()
    seen = dict(zip(NAMES, gauges.newest(), strict=True))
    assert all(type(value) is float for value in seen.values())
    unknown = {name for name, value in seen.items() if math.isnan(value)}
    assert unknown == set(gauges.reasons) and all(gauges.reasons.values())
    optional = () if Path("/proc/pressure").is_dir() else {name for name in NAMES if name.endswith("_pressure")}
    assert not unknown & (EVERYWHERE - {*optional}), gauges.reasons
    assert 0 < seen["memory_available_bytes"] <= seen["memory_limit_bytes"]
    assert seen["switches"] > 0 and resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw > before


def test_threads_that_have_ended_do_not_disturb_the_delay_of_those_that_live():
    stop, read = threading.Event(), make_readers(Path("/sys"), Path("/proc"), frozenset({0}), Path("/sys"))
    workers = [threading.Thread(target=stop.wait) for _ in range(8)]
    for worker in workers:
        worker.start()
    read["runqueue_share"]()
    stop.set()
    for worker in workers:
        worker.join()
    assert read["runqueue_share"]() >= 0


def test_sensors_in_reach_of_a_rank_are_those_of_its_cpus(machine):
    assert set(sensors.throttles(machine.sys, frozenset({2})).values) == {"cpu2 core", "cpu2 package"}
    assert sensors.clocks(machine.sys, machine.proc / "cpuinfo", frozenset({3})).values == {"cpu3": 4000.0}
