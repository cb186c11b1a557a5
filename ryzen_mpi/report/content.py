"""What a report says, whatever its form. Every form is made from these values and adds nothing of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ryzen_mpi.report.texts import digits_of, interval_text, number_text, with_unit

Tone = Literal["good", "warn", "bad", "unknown", "plain"]
Level = Literal["act", "watch", "note"]

UNMEASURED = "not measured"


@dataclass(frozen=True)
class Badge:
    """A word of judgement. The colour follows `tone`, and the word stands without it."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Shown:
    """One figure as it is shown.

    Attributes:
        name: what it is.
        value: in `unit`; None where there is none, and then `note` says why.
        unit: empty or "1" for plain numbers.
        low, high: bounds of its interval of `confidence`, or None.
        n: observations behind it, or None where it is no statistic.
        target: what it is held against: ">= 250 samples/s".
        badge: how it did.
        note: how it was measured, or why it was not.
    """

    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    confidence: float = 0.95
    target: str = ""
    badge: Badge | None = None
    note: str = ""

    @property
    def number(self) -> str:
        """The value without its unit, to the digits its interval leaves it; or that there is none."""
        return UNMEASURED if self.value is None else number_text(self.value, digits_of(self.low, self.high))

    @property
    def text(self) -> str:
        """The value with its unit."""
        return UNMEASURED if self.value is None else with_unit(self.number, self.unit)

    @property
    def spread(self) -> str:
        """Interval and n as a person reads them; empty where neither is known."""
        return "" if self.value is None else interval_text(self.low, self.high, self.n, self.confidence)

    @property
    def short_spread(self) -> str:
        """As `spread`, for a cell of a table that says once what it is: "259 to 267, n 40"."""
        if self.value is None:
            return ""
        digits = digits_of(self.low, self.high)
        known = self.low is not None and self.high is not None
        ends = f"{number_text(self.low, digits)} to {number_text(self.high, digits)}" if known else ""
        return ", ".join(filter(None, (ends, "" if self.n is None else f"n {self.n:,}")))


Cell = str | Shown | Badge


@dataclass(frozen=True)
class Table:
    """Rows under columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""

    def is_flush_right(self, column: int) -> bool:
        """Whether all of a column are figures, or plain numbers."""
        cells = [row[column] for row in self.rows]
        return bool(cells) and all(isinstance(cell, Shown) or _is_number(cell) for cell in cells)

    @property
    def small_print(self) -> str:
        """What the small figures below those of the table are; empty where there are none."""
        shown = [cell for row in self.rows for cell in row if isinstance(cell, Shown) and cell.short_spread]
        known = sorted({round(100 * cell.confidence) for cell in shown if cell.low is not None})
        if not known:
            return "n observations" if shown else ""
        between = f"{known[0]} to {known[-1]}" if len(known) > 1 else f"{known[0]}"
        return f"{between} % interval, and n observations" if known[-1] else "bounds, and n observations"


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, str) and cell.replace(",", "").replace(".", "", 1).isdigit()


@dataclass(frozen=True)
class Picture:
    """A drawing in two sizes, as SVG without prologue: for a page, and for a page as narrow as a telephone.

    Attributes:
        name: unique in its report; of letters, digits and dashes.
        title: stands above it.
        words: what it shows, for who cannot see it.
        half: two of them stand side by side on a wide page.
    """

    name: str
    title: str
    words: str
    wide: str
    narrow: str
    half: bool = False


@dataclass(frozen=True)
class Advice:
    """What the figures suggest. `what` was seen, `why` as far as it is known, and what to `do` about it."""

    level: Level
    what: str
    why: str = ""
    do: str = ""

    @property
    def sentence(self) -> str:
        """What was seen, with its cause where one is known."""
        return f"{self.what}: {self.why}" if self.why else self.what


def by_urgency(found: Iterable[Advice]) -> tuple[Advice, ...]:
    """What asks for an act first; otherwise in the order found."""
    return tuple(sorted(found, key=lambda advice: ("act", "watch", "note").index(advice.level)))


@dataclass(frozen=True)
class Section:
    """A part of a report under a title of its own."""

    title: str
    text: tuple[str, ...] = ()
    figures: tuple[Shown, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    advice: tuple[Advice, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.commands or self.figures or self.pictures or self.tables or self.advice)


@dataclass(frozen=True)
class Headline:
    """The verdict of a report: a word, and the sentence that it rests on."""

    verdict: str
    tone: Tone
    text: str = ""


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        kind: "run", "scaling", "phase", "daily", "weekly", "monthly" or "briefing".
        title, subtitle: what it is about; where and when.
        headline: read first, and perhaps alone.
        key: the figures that stand beside the headline; three or four.
        sections: in reading order.
        made: seconds since 1970-01-01 UTC.
        sources: files it was made from.
    """

    kind: str
    title: str
    subtitle: str
    headline: Headline
    made: float
    key: tuple[Shown, ...] = ()
    sections: tuple[Section, ...] = ()
    sources: tuple[str, ...] = field(default=())
