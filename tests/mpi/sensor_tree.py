"""A /sys of thermal sensors that is made hot, and cool again, while somebody reads it (setting monitor.sensors)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COOL_C, HOT_C = 52.0, 99.0
FAST_KHZ, SLOW_KHZ = 3_400_000, 1_200_000


class SensorTree:
    """One package with a sensor, and throttle counts and clock of every CPU, as an Intel machine shows them.

    A value is replaced in one piece, as the kernel does it: who reads meanwhile sees the old or the new.
    """

    def __init__(self, root: Path, cpus: int | None = None) -> None:
        self.root, self.cpus, self.events = root, cpus or os.cpu_count() or 1, 0
        self.put("class/hwmon/hwmon0/name", "coretemp")
        self.put("class/hwmon/hwmon0/temp1_label", "Package id 0")
        self.throttle(0)
        self.cool()

    def heat(self, celsius: float = HOT_C) -> None:
        """Hot, at a low clock; nothing is counted yet."""
        self._warm(celsius, SLOW_KHZ)

    def cool(self, celsius: float = COOL_C) -> None:
        """As at the beginning; the counts stay, as a machine's do."""
        self._warm(celsius, FAST_KHZ)

    def throttle(self, times: int = 1) -> None:
        """Every CPU has slowed itself down so many times more."""
        self.events += times
        for cpu in range(self.cpus):
            self.put(f"devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count", self.events)
            self.put(f"devices/system/cpu/cpu{cpu}/thermal_throttle/package_throttle_count", 0)

    @contextmanager
    def throttling(self, every_s: float = 0.2) -> Iterator[None]:
        """Hot inside, with counts that go up all the time; cool afterwards."""
        leaving = threading.Event()

        def count() -> None:
            while not leaving.wait(every_s):
                self.throttle()

        thread = threading.Thread(target=count)
        self.heat()
        self.throttle()
        thread.start()
        try:
            yield
        finally:
            leaving.set()
            thread.join()
            self.cool()

    def put(self, name: str, value: object) -> None:
        """Writes a file of the tree."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        next_one = path.with_name(f".{path.name}")
        next_one.write_text(f"{value}\n")
        next_one.replace(path)

    def _warm(self, celsius: float, khz: int) -> None:
        self.put("class/hwmon/hwmon0/temp1_input", round(celsius * 1000))
        for cpu in range(self.cpus):
            self.put(f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", khz)
