"""Clean steps, counted: every one with data of its own, ranks compared after each, and put right where they differ."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ryzen_mpi import __version__
from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings
from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.training.reduce import broadcast_vector
from ryzen_mpi.training.replicas import differences, fingerprint, place_of
from ryzen_mpi.training.step import TrainingStep
from ryzen_mpi.training.strategy import Strategy
from ryzen_mpi.validation.registry import Context
from ryzen_mpi.validation.training import connected, copies, make_step, watched

TINY = (
    *("model.vocab_size=32", "model.embedding_dim=16", "model.num_heads=2", "model.num_layers=1"),
    *("model.feed_forward_dim=32", "model.seq_length=8", "training.batch_size=2"),
)
"""Steps of a few milliseconds, so that thousands take seconds."""
KEPT = 20
"""Sentences about differences that are kept."""
TOGETHER = 25
"""Steps whose hashes are exchanged together."""
TOLD_EVERY = 1000


@dataclass
class Counted:
    """What was counted so far with the same settings, in counted.json.

    Attributes:
        key: of settings, ranks and version: what was counted with others is another count.
        steps, clean: inspected; equal on all ranks, and finite.
        runs: of the check.
        told: what was wrong in the runs before.
    """

    key: str
    steps: int = 0
    clean: int = 0
    runs: int = 0
    told: list[str] = field(default_factory=list)


def count_steps(context: Context, steps: int) -> tuple[Counted, list[str]]:
    """Counts `steps` more; returns the whole count and what was wrong in this run. Collective. Raises UserError."""
    words = list(TINY)
    if "backend" in context.options:
        words.append(f"distributed.backend={context.options['backend']}")
    with connected(context, words) as (world, settings):
        path = context.folder / "counted.json"
        counted = _read(world, path, _key(settings, world.size))
        # another run has other samples and other first weights: a step that was counted before is not counted again
        training = settings.training.model_copy(update={"seed": settings.training.seed + counted.runs})
        counter = Counter(world, settings.model_copy(update={"training": training}))
        while counter.steps < steps:
            told = counter.steps // TOLD_EVERY
            counter.some(min(TOGETHER, steps - counter.steps))
            if counter.steps // TOLD_EVERY > told:
                context.tell(f"{counter.clean} of {counter.steps} steps clean")
    before = counted
    told = [*before.told, *counter.told]
    counted = Counted(before.key, before.steps + counter.steps, before.clean + counter.clean, before.runs + 1, told)
    if world.is_leader:
        kept = asdict(counted) | {"told": counted.told[:KEPT]}
        write_atomic(path, json.dumps(kept, indent=1) + "\n")
    counted.told = before.told
    return counted, counter.told


def _key(settings: Settings, ranks: int) -> str:
    words = json.dumps([settings.model_dump(mode="json"), ranks, __version__], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()


def _joined(*prints: str) -> str:
    return hashlib.blake2b("".join(prints).encode(), digest_size=8).hexdigest()


def _read(world: World, path: Path, key: str) -> Counted:
    """What was counted with the same `key`, or nothing. Collective."""
    found = None
    if world.is_leader:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            content = json.loads(path.read_text())
            found = content if content["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError):
            found = None
    found = world.exchange.broadcast(found)
    return Counted(**found) if found else Counted(key)


class Counter:
    """Trains, and compares the ranks after every step. Collective.

    Attributes:
        steps, clean: counted; of them those after which all ranks had the same, and it was finite.
        told: how they differed otherwise.
    """

    def __init__(self, world: World, settings: Settings) -> None:
        self.world, self.steps, self.clean, self.told = world, 0, 0, []
        self.step: TrainingStep = make_step(world.rank, world.size, settings, watched(self._look))
        self._gradient = ""

    def some(self, steps: int) -> None:
        """The next `steps` steps, whose hashes are compared together: an exchange takes longer than a step.

        Those that follow a difference are not counted: they are its consequence, and no trials of their own.
        """
        first, mine, finite = self.step.progress.step + 1, [], []
        for _ in range(steps):
            self._gradient = ""
            outcome = self.step.run()
            vectors = copies(self.step.strategy)
            mine.append(_joined(self._gradient, *map(fingerprint, vectors.values())))
            finite.append(not outcome.skipped)
        everyone = self.world.exchange.allgather(mine)
        same = [len(set(prints)) == 1 for prints in zip(*everyone, strict=True)]
        counted = same.index(False) + 1 if False in same else steps
        self.steps += counted
        self.clean += sum(a and b for a, b in zip(same[:counted], finite, strict=False))
        for number in (n for n in range(counted) if not finite[n]):
            self._tell(f"step {first + number} was skipped: a loss or gradient of some rank was not finite")
        if False in same:
            self._explain(first + counted - 1)
            self._put_right()

    def _look(self, strategy: Strategy) -> None:
        self._gradient = fingerprint(strategy.flat.gradient) if strategy.cut is None else ""

    def _explain(self, number: int) -> None:
        layout = self.step.strategy.layout
        found = [
            difference.told(name, number, place_of(layout, difference.element))
            for name, vector in copies(self.step.strategy).items()
            for difference in differences(self.world, vector)
        ]
        for text in found or [f"gradients or weights differed between ranks at step {number}, and do no longer"]:
            self._tell(text)

    def _tell(self, text: str) -> None:
        if len(self.told) < KEPT:
            self.told.append(text)

    def _put_right(self) -> None:
        """Rank 0's state on all: the steps that follow are independent of the one that failed."""
        strategy = self.step.strategy
        if strategy.cut is None:
            for _, vector in strategy.vectors():
                broadcast_vector(vector)
        strategy.settle()
