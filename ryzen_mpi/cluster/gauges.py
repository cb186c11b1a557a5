"""What a rank sees of itself and its machine, from /proc and /sys: numbers by name, NaN with a reason where it cannot.

`rank_<name>` is the signal that each becomes (metrics/signals.py); a test holds the two together.
"""

from __future__ import annotations

NAMES = (
    *("retransmits", "packets_lost"),
    *("shared_bytes", "switches", "preemptions", "runqueue_share", "major_faults", "swap_bytes"),
    *("numa_used_bytes", "numa_free_bytes", "memory_available_bytes", "memory_limit_bytes"),
    *("cpu_pressure", "memory_pressure", "io_pressure"),
    *("clock_hz", "temperature_c", "throttles", "power_w"),
)
"""In the order in which ranks tell them one another."""
