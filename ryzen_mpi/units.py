"""Bytes, seconds and rates as a person reads them."""

from __future__ import annotations


def bytes_text(count: float) -> str:
    """`count` bytes with a binary prefix: 1536 -> '1.5 KiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration_text(seconds: float) -> str:
    """`seconds` as '850 ms', '12.3 s', '2 min 05 s' or '3 h 07 min'."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count_text(count: int) -> str:
    """`count` with a decimal prefix: 1_234_567 -> '1.23 M'."""
    for size, unit in ((1_000_000_000, " G"), (1_000_000, " M"), (1_000, " k")):
        if count >= 0.9995 * size:  # what rounds to 1000 of a unit is 1 of the next
            return f"{count / size:.3g}{unit}"
    return str(count)


def rate_text(per_second: float) -> str:
    """A rate with three significant figures and no needless decimals."""
    if per_second >= 999.5:
        return f"{per_second:,.0f}"
    return f"{per_second:.3g}"
