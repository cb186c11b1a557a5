"""The documents' scaling result, 20.22 times on 4 processes, taken apart with nothing but their own numbers.

Source: the scaling report among the documents behind the project, as the requirements quote it ("Settled: superlinear
efficiency"): 13.35, 87.48 and 270.19 samples/s at 1, 2 and 4 processes, called 20.22 times and 505 %; 24.0, 7.32 and
4.74 s; the ranks of the run with 4 took 3.02 to 4.74 s; 320 samples, 2 epochs. Ranks were simulated: they ran one after
the other, exchanged nothing, and each trained its 1/P of the samples.

A published number stands for all that round to it, so everything here is reckoned with intervals (Moore, Kearfott &
Cloud 2009, Introduction to Interval Analysis, chapter 2): what is said to follow follows whatever was rounded away.

The formula behind the throughputs: samples x P / seconds of the slowest rank, with the 320 samples of one epoch. It
gives all three: 320 x 1 / 24.0 = 13.33, 320 x 2 / 7.32 = 87.43, 320 x 4 / 4.74 = 270.04, each within rounding. Hence
    claimed speedup = (320 P / T_P) / (320 / T_1) = P T_1 / T_P = P x P x (T_1 / P) / T_P
of which the first P is samples counted P times, the second is that each rank had 1/P of them and only the slowest was
timed though they ran in turn, and the last is what one process needed for a rank's share of the work against what the
slowest rank needed: start-up and warm-up, which only T_1 contains. That last factor is a remainder: what made the
slowest of the ranks slow is in it too, so it is the least that the base has too much, and differs between 2 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SAMPLES, EPOCHS = 320, 2
CLAIMED_SPEEDUP = "20.22"
THROUGHPUT = {1: "13.35", 2: "87.48", 4: "270.19"}
SECONDS = {1: "24.0", 2: "7.32", 4: "4.74"}
FASTEST_OF_4 = "3.02"


@dataclass(frozen=True)
class Interval:
    """All that a rounded number may have been, and what follows from it; positive numbers only."""

    low: float
    high: float
    value: float

    @classmethod
    def of(cls, text: str) -> Interval:
        """The numbers that round to `text`: half a unit of its last digit to either side."""
        half = 0.5 * 10.0 ** -len(text.partition(".")[2])
        return cls(float(text) - half, float(text) + half, float(text))

    @classmethod
    def exactly(cls, value: float) -> Interval:
        return cls(value, value, value)

    def __mul__(self, other: Interval) -> Interval:
        return Interval(self.low * other.low, self.high * other.high, self.value * other.value)

    def __truediv__(self, other: Interval) -> Interval:
        return Interval(self.low / other.high, self.high / other.low, self.value / other.value)

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high, self.value + other.value)

    def overlaps(self, other: Interval) -> bool:
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def _times(count: float, interval: Interval) -> Interval:
    return Interval.exactly(count) * interval


@dataclass(frozen=True)
class Terms:
    """The claimed speedup at `ranks` as a product.

    Attributes:
        counted: samples counted once for each process.
        in_turn: each rank had 1/P of the samples, and only the slowest was timed though they ran in turn.
        start_up: start-up and warm-up, which only the time of one process contains.
        claimed: their product.
        published: the quotient of the published throughputs.
    """

    ranks: int
    counted: Interval
    in_turn: Interval
    start_up: Interval
    claimed: Interval
    published: Interval


def terms(ranks: int) -> Terms:
    """Where the claimed speedup at 2 or 4 comes from. Pure."""
    base, ours = Interval.of(SECONDS[1]), Interval.of(SECONDS[ranks])
    times = Interval.exactly(ranks)
    published = Interval.of(THROUGHPUT[ranks]) / Interval.of(THROUGHPUT[1])
    return Terms(ranks, times, times, base / times / ours, times * (base / ours), published)


def formula(ranks: int) -> Interval:
    """Samples x processes / seconds of the slowest, in samples/s: what the documents call throughput. Pure."""
    return _times(SAMPLES * ranks, Interval.exactly(1.0) / Interval.of(SECONDS[ranks]))


def in_turn_s() -> Interval:
    """Seconds the 4 simulated ranks took one after the other. Pure.

    One took the least, one the most, and the two between anything from the one to the other.
    """
    least, most = Interval.of(FASTEST_OF_4), Interval.of(SECONDS[4])
    low, high = 3 * least.low + most.low, least.high + 3 * most.high
    return Interval(low, high, (low + high) / 2)


def balance_bound() -> Interval:
    """The most that mean/max of the 4 ranks' times may have been; `high` holds whatever was rounded. Pure.

    The mean is largest where three ranks took the most: (least + 3 most) / (4 most) = 3/4 + least / (4 most).
    """
    quarter = Interval.of(FASTEST_OF_4) / _times(4, Interval.of(SECONDS[4]))
    return quarter + Interval.exactly(0.75)


def speedup_bound() -> Interval:
    """The most these ranks could have gained at once, without a moment of communication. Pure.

    E = load balance x communication efficiency x computation scaling (`account`), the last two at most 1 for ranks that
    compute at the speed of one process without its start-up.
    """
    return _times(4, balance_bound())


def really_done() -> Interval:
    """Seconds of one process over those of the 4 ranks as they really ran, in turn: the same work both times. Pure.

    No part of it is parallel. It is how much start-up and warm-up the base has that the ranks have not.
    """
    return Interval.of(SECONDS[1]) / in_turn_s()


def true_throughput() -> Interval:
    """Samples/s of the program with 4 simulated ranks: 320 x 2 epochs, once each, in the time it took. Pure."""
    return _times(SAMPLES * EPOCHS, Interval.exactly(1.0) / in_turn_s())


def rows() -> list[tuple[str, str, str]]:
    """The table term by term: what, figure, how it is known. Pure."""
    of_4, of_2 = terms(4), terms(2)
    found = [
        (
            f"throughput, {ranks} process{'es' * (ranks > 1)}",
            f"{formula(ranks)} samples/s",
            f"{SAMPLES} x {ranks} / {SECONDS[ranks]} s; published {THROUGHPUT[ranks]}",
        )
        for ranks in SECONDS
    ]
    for each in (of_2, of_4):
        ranks, seconds = each.ranks, f"{SECONDS[1]} s / {each.ranks} / {SECONDS[each.ranks]} s"
        claim = f"; published {CLAIMED_SPEEDUP}" if ranks == 4 else ""
        found += [
            (f"speedup claimed at {ranks}", str(each.claimed), f"{ranks} x {SECONDS[1]} / {SECONDS[ranks]}{claim}"),
            ("= samples counted P times", f"{each.counted.value:g}", f"throughput = {SAMPLES} x {ranks} / seconds"),
            ("x ranks that ran in turn", f"{each.in_turn.value:g}", "1/P of the samples each, only the slowest timed"),
            ("x start-up, warm-up in base", str(each.start_up), seconds),
        ]
    return [
        *found,
        ("its published throughputs give", str(of_4.published), f"{THROUGHPUT[4]} / {THROUGHPUT[1]}"),
        ("load balance at most", str(balance_bound()), "(3.02 + 3 x 4.74) / (4 x 4.74)"),
        ("so a speedup at most", str(speedup_bound()), "at once, nothing exchanged, nothing waited for"),
        ("seconds in turn", str(in_turn_s()), "3 x 3.02 + 4.74 to 3.02 + 3 x 4.74"),
        ("what was done, over the base", str(really_done()), "24.0 s over them; none of it parallel: start-up"),
        ("true throughput at 4", f"{true_throughput()} samples/s", f"{SAMPLES} x {EPOCHS} samples over them"),
    ]


def problems() -> list[str]:
    """Why the published result is INVALID, each with its numbers. Pure."""
    found = []
    for ranks in (2, 4):
        each = terms(ranks)
        if formula(ranks).overlaps(Interval.of(THROUGHPUT[ranks])):
            found.append(
                f"{ranks} processes: the claimed {THROUGHPUT[ranks]} samples/s are {SAMPLES} samples x {ranks} / "
                f"{SECONDS[ranks]} s: samples were counted once for each process"
            )
        if each.claimed.low > ranks:
            found.append(
                f"{ranks} processes: a speedup of {each.claimed} is above {ranks}; neither cache nor clock was "
                f"measured to explain it, and {each.start_up} of it is start-up and warm-up, which only the base has"
            )
    found.append(
        f"4 processes: the ranks ran one after the other ({FASTEST_OF_4} to {SECONDS[4]} s each, {in_turn_s()} s "
        f"together) and exchanged no gradient; {true_throughput()} samples/s were trained, {really_done()} times the "
        f"base, and none of it parallel"
    )
    found.append(
        f"4 processes: the load balance of ranks that took {FASTEST_OF_4} to {SECONDS[4]} s is at most "
        f"{balance_bound().high:.3f}, so at once they could have gained {speedup_bound().high:.2f} times at most"
    )
    return found


def report() -> dict[str, Any]:
    """The published result in the shape of a scaling report, with its problems: INVALID to every gate. Pure."""
    claimed = terms(4).claimed
    return {
        "format": 1,
        "made": 0.0,
        "machine": {},
        "profile": "published",
        "overrides": [],
        "headline": (
            f"INVALID: {CLAIMED_SPEEDUP} times on 4 processes is {claimed} = 4 (samples counted 4 times) x 4 (ranks in "
            f"turn) x {terms(4).start_up} (start-up and warm-up in the base); at most {speedup_bound().high:.2f} times "
            f"was possible, and none of it was parallel"
        ),
        "problems": problems(),
        "insufficient": ["one launch a number of processes: no interval but that of rounding"],
        "oversubscribed": False,
        "disturbed": [],
        "strong": {"mode": "strong", "points": [_point(ranks) for ranks in SECONDS]},
        "weak": None,
        "launches": [],
        "failed": [],
        "loss_table": {},
    }


def _point(ranks: int) -> dict[str, Any]:
    speedup = terms(ranks).published if ranks > 1 else Interval.exactly(1.0)
    unknown = {"value": None, "low": None, "high": None, "n": 0, "unit": "1", "confidence": 0.0}
    absent = ("load_balance", "communication_efficiency", "computation_scaling", "communication_share")
    return {
        "ranks": ranks,
        "nodes": 1,
        "global_batch": 0,
        "samples": SAMPLES,
        "throughput": _fig(Interval.of(THROUGHPUT[ranks]), "samples/s"),
        "measured_s": _fig(Interval.of(SECONDS[ranks]), "s"),
        "speedup": _fig(speedup, "1"),
        "efficiency": _fig(speedup / Interval.exactly(ranks), "1"),
        **{name: unknown for name in absent},
        "computation_s": unknown | {"unit": "s"},
        "communication_s": unknown | {"unit": "s"},
        "launches": 1,
        "oversubscribed": False,
        "explained": None,
    }


def _fig(interval: Interval, unit: str) -> dict[str, Any]:
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": 1,
        "unit": unit,
        "confidence": 0.0,
    }
