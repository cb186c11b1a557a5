"""The checks by name. A check is a function with a decorator; what it needs of the cluster stands beside its name."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ryzen_mpi.cluster.phases import Phase
from ryzen_mpi.errors import UserError
from ryzen_mpi.validation.result import Findings

if TYPE_CHECKING:
    from ryzen_mpi.cluster.world import World
    from ryzen_mpi.scaling.launch import Nodes

Where = Literal["one", "nodes", "ranks", "driver"]


@dataclass(frozen=True)
class Context:
    """What a check is given.

    Attributes:
        phase: whose check it is. A machine with fewer nodes than the phase runs its ranks on what there is.
        ranks: how many the phase has, or as many as were asked for.
        folder: a folder of this check alone, on a file system that all nodes see; what it leaves there is found again
            by the next run of the same check in the same results folder (a soak goes on).
        world: the ranks it runs on, for `where` "nodes" and "ranks"; None otherwise.
        nodes: where a "driver" may start ranks (`ryzen_mpi.scaling.launch`).
        overrides: `section.key=value` words a person gave for what the check trains.
        options: what a person gave for the check itself, by name: `duration_s`, `repeats`, ...
        tell: shows a line of progress (rank 0).
    """

    phase: Phase
    ranks: int
    folder: Path
    world: World | None = None
    nodes: Nodes | None = None
    overrides: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    tell: Callable[[str], object] = lambda line: None

    def crowd(self, ranks: int = 0) -> float:
        """How many of `ranks` (all of the phase) share a core of the nodes, 1 at least: as much longer they take."""
        cores = len(os.sched_getaffinity(0)) * (self.nodes.count if self.nodes else 1)
        return max(1.0, (ranks or self.ranks) / cores)

    def count(self, name: str, default: int, least: int = 1) -> int:
        """The option `name` of the check, a whole number from `least` on. Local. Raises UserError."""
        value = self.options.get(name, default)
        if not isinstance(value, int) or value < least:
            raise UserError(f"--option {name}={value}: not a whole number from {least} on", f"default: {default}")
        return value


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: of the command line, the thresholds and its page docs/checks/NAME.md.
        ids: of the requirements it covers: "E1", ...
        about: one line for --list.
        where: "one": one process on this node. "nodes": one rank on each node. "ranks": all ranks of the phase.
            "driver": one process that starts jobs of its own. On "nodes" and "ranks" every rank runs the function
            (collective), and rank 0's findings are kept.
        limit_s: seconds it may take where every rank has a core; `duration_s` of its options is added.
        run: measures.
        least_ranks, least_nodes: it says nothing with fewer.
    """

    name: str
    ids: tuple[str, ...]
    about: str
    where: Where
    limit_s: float
    run: Callable[[Context], Findings]
    least_ranks: int = 1
    least_nodes: int = 1


CHECKS: dict[str, Check] = {}


def check(
    name: str,
    ids: str,
    about: str,
    where: Where,
    limit_s: float = 120.0,
    least_ranks: int = 1,
    least_nodes: int = 1,
) -> Callable[[Callable[[Context], Findings]], Callable[[Context], Findings]]:
    """Registers the function as the check `name`; `ids` as in "E1 E7"."""

    def register(run: Callable[[Context], Findings]) -> Callable[[Context], Findings]:
        assert name not in CHECKS, f"two checks are called {name}"
        CHECKS[name] = Check(name, tuple(ids.split()), about, where, limit_s, run, least_ranks, least_nodes)
        return run

    return register


def all_checks() -> dict[str, Check]:
    """Every check by name. Local; imports their modules, which must be light until a check runs."""
    from ryzen_mpi.validation import checks

    for module in pkgutil.iter_modules(checks.__path__):
        importlib.import_module(f"{checks.__name__}.{module.name}")
    return CHECKS


def find(name: str) -> Check:
    """The check of that name. Local. Raises UserError with the nearest name."""
    known = all_checks()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    suggestion = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"there is no check {name!r}", f"{suggestion}`ryzen-mpi validate --list` names all")
