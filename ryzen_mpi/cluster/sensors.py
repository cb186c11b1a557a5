"""What the machine tells of its heat, clock and power, from sysfs; where it tells nothing, the reason.

`root` lets tests plant a tree. Sources: kernel documentation hwmon/sysfs-interface, thermal/sysfs-api, power/powercap,
admin-guide/pm/cpufreq; core_throttle_count is of arch/x86/kernel/cpu/mce/therm_throt.c (Intel processors alone).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SYS = Path("/sys")
CPUINFO = Path("/proc/cpuinfo")
PROCESSORS = ("coretemp", "k10temp", "zenpower", "fam15h_power", "x86_pkg_temp", "acpitz", "cpu-thermal", "cpu_thermal")
"""Names of sensors that sit in or at a processor; disks and network cards have sensors too."""


@dataclass(frozen=True)
class Reading:
    """Values by the sensor's name; where there are none, `why` says so."""

    values: dict[str, float] = field(default_factory=dict)
    why: str = ""


def temperatures(root: Path = SYS) -> Reading:
    """Degrees Celsius of the processors' sensors. Local."""
    found = {}
    for chip in sorted((root / "class/hwmon").glob("hwmon*")):
        name = _text(chip / "name")
        for path in sorted(chip.glob("temp*_input")) if name in PROCESSORS else ():
            label = _text(path.with_name(path.name.replace("_input", "_label"))) or path.name.removesuffix("_input")
            _add(found, f"{chip.name} {name} {label}", path, 1e-3)
    for zone in sorted((root / "class/thermal").glob("thermal_zone*")):
        if not found and _text(zone / "type") in PROCESSORS:
            _add(found, f"{zone.name} {_text(zone / 'type')}", zone / "temp", 1e-3)
    return Reading(found, "" if found else "no sensor of a processor in /sys/class/hwmon and /sys/class/thermal")


def throttles(root: Path = SYS) -> Reading:
    """How often each processor slowed itself down because of heat, since it was started. Local."""
    found = {}
    for cpu in sorted((root / "devices/system/cpu").glob("cpu[0-9]*")):
        for kind in ("core", "package"):
            _add(found, f"{cpu.name} {kind}", cpu / f"thermal_throttle/{kind}_throttle_count")
    return Reading(found, "" if found else "no thermal_throttle in /sys/devices/system/cpu: Intel's processors have it")


def clocks(root: Path = SYS, cpuinfo: Path = CPUINFO) -> Reading:
    """MHz every logical CPU runs at now. Local. A virtual machine is told a constant: that is no reading."""
    found = {}
    for cpu in sorted((root / "devices/system/cpu").glob("cpu[0-9]*")):
        _add(found, cpu.name, cpu / "cpufreq/scaling_cur_freq", 1e-3)
    if found:
        return Reading(found)
    lines = _text(cpuinfo).splitlines()
    if any("hypervisor" in line for line in lines if line.startswith("flags")):
        return Reading(why="no cpufreq in sysfs, and a virtual machine's /proc/cpuinfo names a constant")
    values = [line.partition(":")[2] for line in lines if line.startswith("cpu MHz")]
    for number, value in enumerate(values):
        found[f"cpu{number}"] = float(value)
    return Reading(found, "" if found else "neither cpufreq in sysfs nor cpu MHz in /proc/cpuinfo")


def energies(root: Path = SYS) -> Reading:
    """Microjoules every processor package has used, counting from some moment and round (`energy_range`). Local."""
    found, refused = {}, None
    for zone in _packages(root):
        try:
            found[zone.name] = float((zone / "energy_uj").read_text())
        except (OSError, ValueError) as error:
            refused = error
    if found:
        return Reading(found)
    if isinstance(refused, PermissionError):  # since CVE-2020-8694
        return Reading(why="energy_uj of RAPL is for root alone (chmod o+r it, or ask the site)")
    return Reading(why=f"RAPL can't be read: {refused}" if refused else "no RAPL package in /sys/class/powercap")


def energy_range(zone: str, root: Path = SYS) -> float:
    """Microjoules after which the counter of package `zone` begins again from 0; infinite where not told. Local."""
    try:
        return float((root / "class/powercap" / zone / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        return float("inf")


def _packages(root: Path) -> list[Path]:
    zones = sorted((root / "class/powercap").glob("*rapl*:*"))
    return [zone for zone in zones if _text(zone / "name").startswith("package")]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _add(found: dict[str, float], name: str, path: Path, factor: float = 1.0) -> None:
    try:
        found[name] = float(path.read_text()) * factor
    except (OSError, ValueError):  # a sensor that is there and does not answer
        return
