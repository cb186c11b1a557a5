"""What a rule answers with: an act, of what kind, for which rank and node, with the evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS = (
    *("warn", "skip", "lower_rate", "roll_back", "halve_micro_batch", "save_and_stop"),
    *("fewer_threads", "all_threads", "pause"),
)
"""All that can follow. `warn` tells a person and changes nothing."""

NOBODY = -1
"""In place of a rank: the act is nobody's in particular."""


@dataclass(frozen=True)
class Act:
    """One answer of a rule.

    Attributes:
        rule: name of the rule.
        kind: one of KINDS.
        rank: whom it is about, or NOBODY.
        node: name of the node it is about; empty where it is about none.
        step: the step it was found at.
        evidence: what was seen, in a sentence without the step and the rule's name.
        figures: the same as numbers and words, and what the act needs to be carried out.
    """

    rule: str
    kind: str
    rank: int
    node: str
    step: int
    evidence: str
    figures: Mapping[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind

    def document(self) -> dict:
        """The act as JSON can hold it: figures that are not finite as words ("nan", "inf")."""
        figures = {name: _plain(value) for name, value in self.figures.items()}
        return {**{name: getattr(self, name) for name in ("rule", "kind", "rank", "node", "step", "evidence")}} | {
            "figures": figures
        }


def _plain(value: float | str) -> float | int | str:
    if isinstance(value, str | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)
