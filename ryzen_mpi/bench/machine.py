"""The machine and software a result belongs to."""

from __future__ import annotations

import os
import platform
from typing import Any

LOAD_BEFORE = os.getloadavg()[0]


def machine() -> dict[str, Any]:
    """Processor, memory, versions, and the load when this process started. Local."""
    import sys

    import numpy
    import psutil
    import torch

    lines = open("/proc/cpuinfo").read().splitlines()
    named = {name: next((line for line in lines if line.startswith(name)), "") for name in ("model name", "flags")}
    flags = named["flags"].split()
    facts = {
        "cpu": named["model name"].partition(":")[2].strip() or "unknown",
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "vector_units": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "load_before": LOAD_BEFORE,
    }
    if "mpi4py.MPI" in sys.modules:  # only where MPI runs: importing it would start it
        facts["mpi"] = sys.modules["mpi4py.MPI"].Get_library_version().split(",")[0].strip("\x00 \n")
    return facts
