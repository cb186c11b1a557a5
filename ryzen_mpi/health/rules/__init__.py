"""The rules by name. A rule is a class in a file of its own; what it looks at, and how surely, its docstring tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ryzen_mpi.config import Monitor
from ryzen_mpi.health.rules.finite import Finite
from ryzen_mpi.health.rules.rule import Rule
from ryzen_mpi.health.rules.spike import Spike


@dataclass(frozen=True)
class Given:
    """What rules are told of the run before its first step, the same on every rank.

    Attributes:
        micro_batch: samples of a rank's micro-batch.
        threads: every rank's, in rank order; empty where not known.
        save_interval: steps between two checkpoints; 0 where there are none.
    """

    micro_batch: int = 1
    threads: Sequence[int] = ()
    save_interval: int = 0


RULES: dict[str, Callable[[dict[str, Rule], Given], Rule]] = {
    "finite": lambda made, given: Finite(),
    "spike": lambda made, given: Spike(),
}
"""How each is made, of those made before it; in the order in which they look. Names are those of `config.Rules`."""


def make_rules(settings: Monitor, given: Given = Given()) -> list[Rule]:
    """Those that are not off, for one attempt. Every rank makes its own, all alike. Local."""
    made: dict[str, Rule] = {}
    for name, make in RULES.items():
        if getattr(settings.rules, name) != "off":
            made[name] = make(made, given)
    return list(made.values())
