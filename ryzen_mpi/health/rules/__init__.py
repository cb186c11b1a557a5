"""The rules by name. A rule is a class in a file of its own; what it looks at, and how surely, its docstring tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ryzen_mpi.config import Monitor
from ryzen_mpi.health.rules.divergence import Divergence
from ryzen_mpi.health.rules.finite import Finite
from ryzen_mpi.health.rules.heat import Heat
from ryzen_mpi.health.rules.memory import Memory
from ryzen_mpi.health.rules.network import Network
from ryzen_mpi.health.rules.progress import Progress
from ryzen_mpi.health.rules.rule import Rule
from ryzen_mpi.health.rules.spike import Spike
from ryzen_mpi.health.rules.straggler import Straggler
from ryzen_mpi.health.rules.sync import Sync
from ryzen_mpi.health.samples import Samples


@dataclass(frozen=True)
class Given:
    """What rules are told of the run before its first step, the same on every rank.

    Attributes:
        micro_batch: samples of a rank's micro-batch.
        threads: every rank's, in rank order; empty where not known.
        samples: every rank's share of a step, in rank order; empty where they are equal.
        save_interval: steps between two checkpoints; 0 where there are none.
    """

    micro_batch: int = 1
    threads: Sequence[int] = ()
    samples: Sequence[int] = ()
    save_interval: int = 0


Make = Callable[[dict[str, Rule], Given, Samples], Rule]
RULES: dict[str, Make] = {
    "finite": lambda made, given, samples: Finite(),
    "spike": lambda made, given, samples: Spike(),
    "divergence": lambda made, given, samples: Divergence(
        *(rule.newest_was_bad for rule in made.values() if isinstance(rule, Finite | Spike))
    ),
    "sync": lambda made, given, samples: Sync(),
    "straggler": lambda made, given, samples: Straggler(given.samples),
    "memory": lambda made, given, samples: Memory(samples, given.micro_batch),
    "heat": lambda made, given, samples: Heat(samples, given.threads),
    "progress": lambda made, given, samples: Progress(given.save_interval),
    "network": lambda made, given, samples: Network(samples),
}
"""How each is made, with those made before it; in the order in which they look. Names are those of `config.Rules`."""


def make_rules(settings: Monitor, given: Given = Given()) -> list[Rule]:
    """Those that are not off, for one attempt. Every rank makes its own, all alike. Local."""
    made: dict[str, Rule] = {}
    samples = Samples()
    for name, make in RULES.items():
        if getattr(settings.rules, name) != "off":
            made[name] = make(made, given, samples)
    return list(made.values())
