"""What is launched for a scaling report, and in which order. Pure but for a look at the cores of this node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ryzen_mpi.cluster.topology import read_topology
from ryzen_mpi.errors import UserError
from ryzen_mpi.scaling.launch import Nodes
from ryzen_mpi.scaling.record import MODES, MOST_RANKS

REPEATS, STEPS, WARMUP_STEPS, LIMIT_S = 5, 20, 5, 900.0
MOST_REPEATS, MOST_STEPS = 1000, 100_000


@dataclass(frozen=True)
class Turn:
    """One launch to be made."""

    mode: str
    ranks: int
    repeat: int

    @property
    def text(self) -> str:
        return f"{self.mode}, {self.ranks} rank{'s' * (self.ranks > 1)}, repeat {self.repeat + 1}"


@dataclass(frozen=True)
class Plan:
    """All launches of a report; the same plan goes on where it was interrupted.

    Attributes:
        profile, overrides: the settings.
        ranks, modes: each number of ranks in each mode; 1 is among the numbers.
        repeats: of everything.
        steps, warmup_steps: of each launch.
        threads: of a rank, on as many cores.
        per_node: ranks a node holds before the next is used; None where there is one node.
        global_batch: samples a step in strong scaling.
        rank_batch: samples a step and rank in weak scaling.
        limit_s: seconds a launch may take.
    """

    profile: str
    overrides: tuple[str, ...]
    ranks: tuple[int, ...]
    modes: tuple[str, ...]
    repeats: int
    steps: int
    warmup_steps: int
    threads: int
    per_node: int | None
    global_batch: int
    rank_batch: int
    limit_s: float

    def turns(self) -> list[Turn]:
        """Every launch in order: all of a repeat before the next, and each repeat begins with another one. Pure.

        So a drift of the machine (heat, a neighbour) falls on all numbers of ranks alike, and so does coming first.
        """
        kinds = [(mode, ranks) for ranks in self.ranks for mode in self.modes]
        found = []
        for repeat in range(self.repeats):
            begin = repeat % len(kinds)
            found += [Turn(mode, ranks, repeat) for mode, ranks in kinds[begin:] + kinds[:begin]]
        return found

    def batch(self, turn: Turn) -> int:
        """Samples a step over all ranks."""
        return self.global_batch if turn.mode == "strong" else self.rank_batch * turn.ranks

    def what(self) -> dict[str, Any]:
        """What may not change when it goes on: all but how often and how long. JSON values."""
        values = asdict(self)
        del values["repeats"], values["limit_s"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def make_plan(
    profile: str,
    overrides: Sequence[str],
    ranks: Sequence[int],
    modes: Sequence[str],
    nodes: Nodes,
    repeats: int = REPEATS,
    steps: int = STEPS,
    warmup_steps: int = WARMUP_STEPS,
    limit_s: float = LIMIT_S,
) -> Plan:
    """The plan for these numbers of ranks; 1 is added, without which there is no efficiency. Local. Raises UserError.

    Strong scaling takes training.global_batch, or a micro-batch (times the accumulation) for each of the most ranks, so
    that micro-batches have the same size at every number of ranks.
    """
    from ryzen_mpi.settings import load_settings

    _check(ranks, modes)
    settings = load_settings(profile, overrides)
    if settings.hardware.bind == "none":
        raise UserError("hardware.bind=none: scaling is measured with every rank bound alike", "leave it out")
    numbers = tuple(sorted({1, *ranks}))
    most = numbers[-1]
    per_node = None
    if nodes.count > 1:
        per_node = nodes.ranks_per_node or -(-most // nodes.count)
        nodes.hosts(most, per_node)  # raises where they do not fit
    threads = _threads(settings.hardware.num_threads, min(most, per_node or most))
    rank_batch = settings.training.batch_size * settings.training.gradient_accumulation_steps
    global_batch = settings.training.global_batch or rank_batch * most
    if global_batch < most:
        raise UserError(f"training.global_batch={global_batch} is less than a sample a rank for {most} ranks")
    return Plan(
        str(Path(profile).expanduser().resolve()) if Path(profile).expanduser().is_file() else profile,
        tuple(overrides),
        numbers,
        tuple(mode for mode in MODES if mode in modes),
        repeats,
        steps,
        warmup_steps,
        threads,
        per_node,
        global_batch,
        rank_batch,
        limit_s,
    )


def _check(ranks: Sequence[int], modes: Sequence[str]) -> None:
    if not modes or not set(modes) <= set(MODES):
        raise UserError(f"--mode {','.join(modes) or 'nothing'}: not a mode of scaling", f"allowed: {', '.join(MODES)}")
    if not ranks or not all(1 <= count <= MOST_RANKS for count in ranks):
        raise UserError(f"--ranks {','.join(map(str, ranks))}", f"numbers from 1 to {MOST_RANKS}, as in 1,2,4")


def _threads(asked: int | None, ranks_on_node: int) -> int:
    """Threads a rank: as asked, else what is left to each of the most ranks of a node, and at least one."""
    cores = len(read_topology(os.sched_getaffinity(0)).cores)
    room = max(1, cores // ranks_on_node)
    if asked is not None and asked > room:
        raise UserError(
            f"hardware.num_threads={asked}: {ranks_on_node} ranks on {cores} cores have room for {room} a rank, and "
            f"one rank alone may have no more than each of several",
            f"at most {room}, or fewer ranks",
        )
    return asked or room
