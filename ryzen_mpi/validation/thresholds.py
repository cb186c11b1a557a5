"""The thresholds of the phases: data in phases/*.yaml, read, checked and compared with figures.

Two sets stand in every file: `sound`, what physics and practice allow, and `published`, what the planning documents ask
for (superlinear efficiencies among it), given where it differs. A file may extend another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ryzen_mpi.errors import UserError
from ryzen_mpi.validation.result import Measured

SETS = ("sound", "published")
Set = Literal["sound", "published"]
FOLDER = Path(__file__).parent / "phases"
TIMED = {"s", "ms", "us", "samples/s", "tokens/s", "Gbit/s", "MB/s", "MiB/s", "GB/s", "GiB/s"}
"""Units of what a clock was used for: one observation of it proves nothing, and it never repeats exactly."""
LEAST_TIMED = 3


class Threshold(BaseModel):
    """What one figure has to reach."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    at_least: float | None = None
    at_most: float | None = None
    no_go: float | None = None
    """Beyond it (below an `at_least`, above an `at_most`) the documents forbid the next phase outright."""
    excellent: float | None = None
    unit: str
    n_at_least: int | None = None
    """Independent observations it must rest on; default LEAST_TIMED for what is timed, else 1."""
    limit: float | None = None
    """The physical limit: a figure whose interval lies beyond it altogether cannot be true."""
    where_measurable: bool = False
    """A machine that cannot tell passes; what it cannot tell is shown."""
    counted: bool = False
    """What was seen counts, not its interval, which of none among many never reaches 0 and tells what n proves."""
    unmet: Literal["NO-GO", "INSUFFICIENT"] = "NO-GO"
    """INSUFFICIENT: an unmet one only says that it went on too short (a soak's duration, a number of steps)."""
    source: str
    """Where the number comes from."""

    @model_validator(mode="after")
    def _one_side(self) -> Threshold:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give at_least or at_most, one of them")
        return self

    @property
    def text(self) -> str:
        """'>= 250 samples/s'."""
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        return f"{sign} {bound:g}" + ("" if self.unit == "1" else f" {self.unit}")

    @property
    def least_n(self) -> int:
        return self.n_at_least or (LEAST_TIMED if self.unit in TIMED else 1)

    def compare(self, figure: Measured) -> tuple[str, str]:
        """(verdict of a row, reason); `figure` has a finite value. Pure.

        The side of the interval that counts is the worse one: a figure that only its better half meets is no more than
        a hope, and an interval on both sides of the threshold is too few observations.
        """
        sign = 1.0 if self.at_least is not None else -1.0
        bound = self.at_least if self.at_least is not None else self.at_most
        assert bound is not None and figure.value is not None
        interval = (None, None) if self.counted else (figure.low, figure.high)
        ends = [figure.value if end is None else end for end in interval]
        worst, best = sorted(sign * end for end in ends)
        if worst >= sign * bound:
            excellent = self.excellent is not None and worst >= sign * self.excellent
            return ("excellent" if excellent else "met"), ""
        if best >= sign * bound:
            return (
                "too short",
                f"its interval {min(ends):.6g} to {max(ends):.6g} holds the threshold: more observations",
            )
        if self.unmet == "INSUFFICIENT":
            return "too short", f"{figure.value:.6g}, where {self.text} is asked"
        if self.no_go is not None and best < sign * self.no_go:
            return "no-go", f"beyond the limit {self.no_go:g} of the documents"
        return "not met", ""

    def is_impossible(self, figure: Measured) -> bool:
        """Whether all of the figure's interval lies beyond the physical limit. Pure."""
        if self.limit is None or figure.value is None:
            return False
        low = figure.value if figure.low is None else figure.low
        high = figure.value if figure.high is None else figure.high
        return low > self.limit if self.at_least is not None else high < self.limit


@dataclass(frozen=True)
class Rules:
    """The thresholds of one phase under one set.

    Attributes:
        phase, set: names.
        ranks, nodes: the phase's.
        thresholds: check -> figure -> threshold; every check in it has to be run.
    """

    phase: str
    set: Set
    ranks: int
    nodes: int
    thresholds: dict[str, dict[str, Threshold]]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    extends: str | None = None
    sound: dict[str, dict[str, Threshold]] = {}
    published: dict[str, dict[str, Threshold]] = {}


def load_rules(phase_name: str, which: Set = "sound", folder: Path = FOLDER) -> Rules:
    """The rules of a phase. Local. Raises UserError for an unknown phase, and for a file that is none."""
    from ryzen_mpi.cluster.phases import phase

    if which not in SETS:
        raise UserError(f"there is no set of thresholds {which!r}", f"one of {', '.join(SETS)}")
    found = phase(phase_name)
    thresholds: dict[str, dict[str, Threshold]] = {}
    for part in _chain(f"phase{found.name}", folder):
        _merge(thresholds, part.sound)
    if which == "published":
        for part in _chain(f"phase{found.name}", folder):
            _merge(thresholds, part.published)
    return Rules(found.name, which, found.ranks, found.nodes, thresholds)


def _chain(name: str, folder: Path) -> list[_File]:
    """The file, after those it extends. Raises UserError."""
    files: list[_File] = []
    seen: set[str] = set()
    following: str | None = name
    while following is not None:
        if following in seen:
            raise UserError(f"{folder / following}.yaml extends itself")
        seen.add(following)
        file = _read(folder / f"{following}.yaml")
        files.insert(0, file)
        following = file.extends
    return files


def _read(path: Path) -> _File:
    import yaml

    try:
        return _File.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise UserError(f"thresholds {path} can't be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"thresholds {path} are no YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"thresholds {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _merge(into: dict[str, dict[str, Threshold]], more: dict[str, dict[str, Threshold]]) -> None:
    for check, figures in more.items():
        into[check] = into.get(check, {}) | figures


def is_finite(value: object) -> bool:
    """Whether it is a number that can be compared."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
