"""What the machine tells of its heat, clock and power, from sysfs; where it tells nothing, the reason.

`root` lets tests plant a tree. Sources: kernel documentation hwmon/sysfs-interface, thermal/sysfs-api, power/powercap,
admin-guide/pm/cpufreq; core_throttle_count is of arch/x86/kernel/cpu/mce/therm_throt.c (Intel processors alone).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ryzen_mpi.cluster.kernel import text

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
    found = _told(_chips(root), 1e-3) or _told(_zones(root), 1e-3)
    return Reading(found, "" if found else "no sensor of a processor in /sys/class/hwmon and /sys/class/thermal")


def throttles(root: Path = SYS, cpus: frozenset[int] | None = None) -> Reading:
    """How often each processor slowed itself down because of heat, since it was started; all, or `cpus`. Local."""
    found = {}
    for kind in ("core", "package"):
        counts = _told(_of_cpus(root, cpus, f"thermal_throttle/{kind}_throttle_count"))
        found |= {f"{cpu} {kind}": count for cpu, count in counts.items()}
    return Reading(found, "" if found else "no thermal_throttle in /sys/devices/system/cpu: Intel's processors have it")


def clocks(root: Path = SYS, cpuinfo: Path = CPUINFO, cpus: frozenset[int] | None = None) -> Reading:
    """MHz every logical CPU, or those of `cpus`, runs at now. Local.

    A virtual machine is told a constant: that is no reading.
    """
    found = _told(_of_cpus(root, cpus, "cpufreq/scaling_cur_freq"), 1e-3)
    if found:
        return Reading(found)
    lines = _text(cpuinfo).splitlines()
    if any("hypervisor" in line for line in lines if line.startswith("flags")):
        return Reading(why="no cpufreq in sysfs, and a virtual machine's /proc/cpuinfo names a constant")
    values = [line.partition(":")[2] for line in lines if line.startswith("cpu MHz")]
    found = {f"cpu{cpu}": float(value) for cpu, value in enumerate(values) if cpus is None or cpu in cpus}
    return Reading(found, "" if found else "neither cpufreq in sysfs nor cpu MHz in /proc/cpuinfo")


def energies(root: Path = SYS) -> Reading:
    """Microjoules every processor package has used, counting from some moment and round (`energy_range`). Local."""
    found, refused = {}, None
    for zone in _packages(root):
        try:
            found[zone.name] = float(text(zone / "energy_uj"))
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
        return float(text(root / "class/powercap" / zone / "max_energy_range_uj"))
    except (OSError, ValueError):
        return float("inf")


# Where the files are is looked up once: there are hundreds, and they stay as long as the machine is up.


@lru_cache
def _chips(root: Path) -> dict[str, str]:
    """Sensor -> file, of the chips that sit in processors."""
    files = {}
    for chip in sorted((root / "class/hwmon").glob("hwmon*")):
        name = _text(chip / "name")
        for path in sorted(chip.glob("temp*_input")) if name in PROCESSORS else ():
            label = _text(path.with_name(path.name.replace("_input", "_label"))) or path.name.removesuffix("_input")
            files[f"{chip.name} {name} {label}"] = str(path)
    return files


@lru_cache
def _zones(root: Path) -> dict[str, str]:
    """Zone -> file, of the firmware's thermal zones of processors."""
    zones = [(zone, _text(zone / "type")) for zone in sorted((root / "class/thermal").glob("thermal_zone*"))]
    return {f"{zone.name} {kind}": str(zone / "temp") for zone, kind in zones if kind in PROCESSORS}


@lru_cache
def _of_cpus(root: Path, cpus: frozenset[int] | None, name: str) -> dict[str, str]:
    """cpuN -> its file of this name."""
    folders = sorted((root / "devices/system/cpu").glob("cpu[0-9]*"))
    wanted = [folder for folder in folders if cpus is None or int(folder.name[3:]) in cpus]
    return {folder.name: str(folder / name) for folder in wanted if (folder / name).exists()}


@lru_cache
def _packages(root: Path) -> list[Path]:
    zones = sorted((root / "class/powercap").glob("*rapl*:*"))
    return [zone for zone in zones if _text(zone / "name").startswith("package")]


def _text(path: Path) -> str:
    try:
        return text(path).strip()
    except OSError:
        return ""


def _told(files: dict[str, str], factor: float = 1.0) -> dict[str, float]:
    """What the files say, times `factor`; without those that do not answer now."""
    found = {}
    for name, path in files.items():
        try:
            found[name] = float(text(path)) * factor
        except (OSError, ValueError):
            continue
    return found
