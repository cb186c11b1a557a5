"""What a check found, as it is handed on and kept: figures with unit and n, evidence, and a hash over all of it.

Whether a figure is good enough is not part of a result: thresholds are data of the phase (`thresholds.py`), and the
gate judges the same recorded result by any set of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ryzen_mpi.sealing import digest

FORMAT = 1
STATUSES = ("measured", "not measurable", "failed", "timeout", "interrupted")
"""failed: the check itself did not work (a crash, a refused launch), which says nothing good of what it checks."""


@dataclass(frozen=True)
class Measured:
    """One figure of a check.

    Attributes:
        name: as in the phase's thresholds, such as `throughput`.
        value: in `unit`; None where it is not measurable here, and then `why` says why not.
        unit: SI or the field's own; "1" for plain numbers and shares.
        n: independent observations behind it (launches, steps, pairs), not rows.
        low, high: bounds of its 95 % confidence interval, or None.
        samples: the observations, so that a gate can look at them itself; in the order they were taken.
        why: how it was measured, or the reason why it was not.
    """

    name: str
    value: float | None
    unit: str
    n: int = 1
    low: float | None = None
    high: float | None = None
    samples: tuple[float, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Findings:
    """What a check hands back.

    Attributes:
        figures: in the order they are shown; the first is the one of the check's line.
        problems: what must not be, whatever the thresholds: "rank 2 differs from rank 0 at step 7 in element 17".
        impossible: what cannot be true (more than the physical limit): makes the gate's verdict INVALID.
        evidence: lines for a person who has to find the cause; shown where the check fails.
        details: JSON-able matter for reports (matrices, rows by rank), by name.
    """

    figures: Sequence[Measured] = ()
    problems: Sequence[str] = ()
    impossible: Sequence[str] = ()
    evidence: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def read_findings(content: Mapping[str, Any]) -> Findings:
    """Findings from JSON values. Pure. Raises KeyError, TypeError."""
    figures = tuple(
        Measured(**{**figure, **{key: _number(figure[key]) for key in ("value", "low", "high")}})
        for figure in ({**each, "samples": tuple(map(_number, each["samples"]))} for each in content["figures"])
    )
    told = {name: tuple(content[name]) for name in ("problems", "impossible", "evidence")}
    return Findings(figures, **told, details=dict(content["details"]))


def not_measurable(name: str, unit: str, why: str) -> Measured:
    """A figure that this machine cannot tell, with the reason."""
    return Measured(name, None, unit, n=0, why=why)


@dataclass(frozen=True)
class Result:
    """A check's findings with when, where and how they were made. The unit that is stored, hashed and judged.

    Attributes:
        check: the name it is registered by.
        phase: whose settings it ran with.
        campaign: identity of the results folder: results of another one are foreign here.
        number: how many results the folder had before it.
        status: one of STATUSES.
        message: why, where the status is not "measured".
        began, ended: seconds since 1970-01-01 UTC.
        rerun: the command that runs this check again.
        conditions: ranks, nodes, hosts, machine, versions, settings and options it ran with.
    """

    check: str
    phase: str
    campaign: str
    number: int
    status: str
    message: str
    began: float
    ended: float
    rerun: str
    conditions: Mapping[str, Any]
    findings: Findings = Findings()
    format: int = FORMAT

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def figure(self, name: str) -> Measured | None:
        """The figure of that name."""
        return next((figure for figure in self.findings.figures if figure.name == name), None)


class Damaged(ValueError):
    """A stored result that is not what was written: cut short, edited, or of another format."""


def seal(result: Result) -> dict[str, Any]:
    """`result` as JSON values with the SHA-256 of its canonical form in "sha256". Pure."""
    content = plain(asdict(result))
    return content | {"sha256": digest(content, allow_nan=False)}


def unseal(content: Any) -> Result:
    """The result that `seal` made `content` from. Pure. Raises Damaged."""
    try:
        if content["sha256"] != digest(content, allow_nan=False):
            raise Damaged("its hash does not fit: it was changed after it was written")
        if content["format"] != FORMAT:
            raise Damaged(f"format {content['format']}, and this program reads {FORMAT}")
        names = {item.name for item in fields(Result)}
        if set(content) != names | {"sha256"}:
            raise Damaged("it has not the fields of a result")
        return Result(**{**{name: content[name] for name in names}, "findings": read_findings(content["findings"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"it is no result: {type(error).__name__} {error}") from None


_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _number(value: Any) -> Any:
    return _SPECIAL.get(value, value) if isinstance(value, str) else value


def plain(value: Any) -> Any:
    """`value` as what JSON can hold; NaN and infinities as their names, since a gate must see them. Pure."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
