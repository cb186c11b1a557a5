"""Figures, intervals and times as a person reads them. All functions are pure."""

from __future__ import annotations

import math
import re
import time

_NO_SPACE = ("", "1")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\ud800-\udfff]")


def number_text(value: float) -> str:
    """Four significant figures, thousands apart, no needless decimals: 12345.6 -> '12,346', 0.5 -> '0.5'."""
    if not math.isfinite(value):
        return {math.inf: "infinite", -math.inf: "minus infinite"}.get(value, "not a number")
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 9999.5 else f"{value:.4g}"


def rounded(value: float, low: float | None, high: float | None) -> float:
    """`value` to the digits that its interval leaves it: one of the half width, two where that begins with 1."""
    if low is None or high is None or not math.isfinite(high - low) or high <= low or not math.isfinite(value):
        return value
    half = (high - low) / 2
    place = math.floor(math.log10(half))
    return round(value, max(0, -place + (half < 2 * 10.0**place)))


def with_unit(value: float, unit: str) -> str:
    """'263.1 samples/s', '97.5 %', '12'."""
    return number_text(value) if unit in _NO_SPACE else f"{number_text(value)} {unit}"


def interval_text(low: float | None, high: float | None, n: int | None, confidence: float = 0.95) -> str:
    """'95 % interval 259 to 267, n = 40', as much of it as is known."""
    parts = []
    if low is not None and high is not None:
        what = f"{100 * confidence:.3g} % interval" if confidence > 0 else "between"
        parts.append(f"{what} {number_text(low)} {'to' if confidence > 0 else 'and'} {number_text(high)}")
    if n is not None:
        parts.append(f"n = {n:,}")
    return ", ".join(parts)


def moment_text(epoch_s: float) -> str:
    """'2026-03-01 14:05 UTC'; 'at an unknown time' for what no clock shows."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(epoch_s))
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"


def clean(text: object) -> str:
    """`text` without control characters: names and messages come from outside."""
    return _CONTROL.sub("\ufffd", str(text))


def listed(items: list[str], most: int = 6) -> str:
    """'a, b and c'; the rest counted where there are more than `most`."""
    if len(items) > most:
        items = [*items[: most - 1], f"{len(items) - most + 1} more"]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def plural(count: int, one: str, many: str = "") -> str:
    """'1 restart', '2 restarts'."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
