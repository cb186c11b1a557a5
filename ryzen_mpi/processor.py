"""What this processor computes with instructions of its own."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
"""Flags of x86 and of ARM. Without any of them PyTorch computes bfloat16 by hand: a step of `scaling_benchmark` took
twenty times as long as in float32 on an Epyc of the third generation."""


def has_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether matrix products in bfloat16 are quicker here than in float32. Local; where nothing is told: no."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return bool(_BFLOAT16 & set(flags.split()))


def quickest_dtype(cpuinfo: Path = CPUINFO) -> str:
    """`bfloat16` where the processor has instructions for it, else `float32`. Local."""
    return "bfloat16" if has_bfloat16(cpuinfo) else "float32"
