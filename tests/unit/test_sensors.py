"""Sensors, read from planted sysfs trees; and what is said where there are none."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ryzen_mpi.cluster import sensors
from ryzen_mpi.validation.checks import heat
from ryzen_mpi.validation.probes import load

VIRTUAL = "flags\t\t: fpu hypervisor\ncpu MHz\t\t: 2596.096\n"


def put(root: Path, name: str, text: object) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


@pytest.fixture
def machine(tmp_path):
    """Two CPUs with everything that can be told, and a disk that is hotter than they are."""
    put(tmp_path, "class/hwmon/hwmon0/name", "nvme")
    put(tmp_path, "class/hwmon/hwmon0/temp1_input", 99000)
    put(tmp_path, "class/hwmon/hwmon1/name", "k10temp")
    put(tmp_path, "class/hwmon/hwmon1/temp1_input", 61500)
    put(tmp_path, "class/hwmon/hwmon1/temp1_label", "Tctl")
    put(tmp_path, "class/hwmon/hwmon1/temp2_input", "no number")
    put(tmp_path, "class/thermal/thermal_zone0/type", "acpitz")
    put(tmp_path, "class/thermal/thermal_zone0/temp", 27800)
    for cpu in range(2):
        put(tmp_path, f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", 3_400_000 - 400_000 * cpu)
        put(tmp_path, f"devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count", 7)
        put(tmp_path, f"devices/system/cpu/cpu{cpu}/thermal_throttle/package_throttle_count", 3)
    put(tmp_path, "class/powercap/intel-rapl:0/name", "package-0")
    put(tmp_path, "class/powercap/intel-rapl:0/energy_uj", 1_000_000)
    put(tmp_path, "class/powercap/intel-rapl:0/max_energy_range_uj", 100_000_000)
    put(tmp_path, "class/powercap/intel-rapl:0:0/name", "core")
    put(tmp_path, "class/powercap/intel-rapl:0:0/energy_uj", 1)
    return tmp_path


def test_a_processors_sensors_are_read_and_a_disks_are_not(machine):
    assert sensors.temperatures(machine).values == {"hwmon1 k10temp Tctl": 61.5}
    assert sensors.clocks(machine).values == {"cpu0": 3400.0, "cpu1": 3000.0}
    assert sum(sensors.throttles(machine).values.values()) == 20
    assert sensors.energies(machine).values == {"intel-rapl:0": 1e6}
    assert sensors.energy_range("intel-rapl:0", machine) == 1e8


def test_thermal_zones_stand_in_for_missing_chips(machine):
    (machine / "class/hwmon/hwmon1/name").write_text("jc42\n")
    assert sensors.temperatures(machine).values == {"thermal_zone0 acpitz": 27.8}


def test_a_machine_that_tells_nothing_says_why(tmp_path):
    cpuinfo = put(tmp_path, "cpuinfo", VIRTUAL)
    assert "no sensor" in sensors.temperatures(tmp_path).why
    assert "Intel" in sensors.throttles(tmp_path).why
    assert "virtual machine" in sensors.clocks(tmp_path, cpuinfo).why
    assert "no RAPL" in sensors.energies(tmp_path).why
    cpuinfo.write_text("flags : fpu\ncpu MHz : 2000.5\ncpu MHz : 3000\n")
    assert sensors.clocks(tmp_path, cpuinfo).values == {"cpu0": 2000.5, "cpu1": 3000.0}


def test_energy_for_root_alone_is_said_so(machine, monkeypatch):
    def refused(path):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return path.read_text()

    monkeypatch.setattr(sensors, "text", refused)
    found = sensors.energies(machine)
    assert not found.values and "root alone" in found.why


def look(at: float, **readings: dict[str, float]) -> load.Look:
    named = {name: sensors.Reading(values) for name, values in readings.items()}
    empty = {name: sensors.Reading(why="none") for name in ("temperatures", "clocks", "throttles", "energies")}
    return load.Look(at, **(empty | named))


def test_power_survives_the_counter_beginning_again(machine):
    looks = [look(0.0, energies={"intel-rapl:0": 90e6}), look(1.0, energies={"intel-rapl:0": 20e6})]
    assert load.Heat([*looks, look(2.0, energies={"intel-rapl:0": 60e6})]).watts(machine) == pytest.approx(35.0)
    assert load.Heat([look(0.0), look(1.0)]).watts(machine) is None


def test_a_clock_that_falls_under_load_shows_in_the_work_done():
    steady = [i / 100 for i in range(300)]
    slower = [at for i, at in enumerate(steady) if at < 2 or i % 2]
    assert load.Heat(done=steady, seconds=3.0).sustained() == pytest.approx(1.0)
    assert load.Heat(done=slower, seconds=3.0).sustained() == pytest.approx(0.5)
    assert load.Heat(done=steady[:5], seconds=3.0).sustained() is None


def test_a_node_that_throttles_under_load_is_found(machine, monkeypatch, one_thread):
    """The planted counter goes up, and the planted sensor heats up, while the load is on."""
    monkeypatch.setattr(heat, "REST_S", 0.2)
    stop = threading.Event()

    def degrade():
        count, energy = 7, 1_000_000
        while not stop.wait(0.05):
            count, energy = count + 1, energy + 5_000_000
            for name, value in (
                ("devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", count),
                ("class/hwmon/hwmon1/temp1_input", 60_000 + 1000 * min(count, 38)),
                ("class/powercap/intel-rapl:0/energy_uj", energy % 100_000_000),
            ):
                swapped = machine / "next"
                swapped.write_text(f"{value}\n")
                swapped.rename(machine / name)

    thread = threading.Thread(target=degrade)
    thread.start()
    try:
        found = {"host": "a"} | heat.heated(1.0, machine)
    finally:
        stop.set()
        thread.join()
    healthy = found | {"host": "b", "throttled": 0, "load_c": 55.0}
    findings = heat.judge_thermal([healthy, found], 1.0)
    figures = {figure.name: figure for figure in findings.figures}
    assert figures["throttled"].value >= 3 and figures["temperature_load"].value > 60
    assert figures["clock"].value == pytest.approx(3200.0)
    assert any(line.startswith("a: ") and "throttle events" in line for line in findings.evidence)
    watts = {figure.name: figure.value for figure in heat.judge_power([found]).figures}
    assert 20 < watts["power_load"] < 200  # 5 J each 50 ms at the most


def test_healthy_and_silent_nodes_raise_no_alarm(tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr(heat, "REST_S", 0.02)
    cpuinfo = put(tmp_path, "cpuinfo", VIRTUAL)
    for _ in range(10):
        found = {"host": "a"} | heat.heated(0.05, tmp_path, cpuinfo)
        for findings in (heat.judge_thermal([found], 0.05), heat.judge_power([found])):
            assert not findings.problems and not findings.impossible
            silent = [figure for figure in findings.figures if figure.value is None]
            assert len(silent) >= 2 and all(figure.why.startswith("a: ") for figure in silent)


def test_a_power_counter_that_stands_still_is_a_problem():
    node = {"host": "a", "rest_w": 0.0, "load_w": 0.0, "no_power": ""}
    assert "does not follow the load" in heat.judge_power([node]).problems[0]
    assert not heat.judge_power([node | {"rest_w": 90.0, "load_w": 220.0}]).problems
