"""`python -m ryzen_mpi.validation.trainings SPEC`: short trainings one after the other on the ranks it is started on.

Starting ranks takes longer than a short training, so one launch makes all that a check wants. Rank 0 writes what became
of each beside the spec, whole or not at all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ryzen_mpi.rundir import write_atomic

if TYPE_CHECKING:
    from ryzen_mpi.cluster.world import World


@dataclass(frozen=True)
class Training:
    """One short training.

    Attributes:
        name: of it in the answer.
        words: `section.key=value` over the spec's.
        steps: to train.
        fault: "" for none, or one of `controls.CONTROLS`: what the statistics must notice.
    """

    name: str
    words: tuple[str, ...]
    steps: int
    fault: str = ""


@dataclass(frozen=True)
class Curve:
    """What became of a training: `losses` and `norms` (of the gradient) by step, the loss on held-out data at the end.

    Attributes:
        ranks: that trained it.
        nodes: they were on.
    """

    name: str
    ranks: int
    nodes: int
    losses: tuple[float, ...]
    norms: tuple[float, ...]
    held_out: float


def write_spec(path: Path, answer: Path, words: Sequence[str], trainings: Sequence[Training]) -> None:
    """What `main` reads. Local."""
    content = {"answer": str(answer), "words": list(words), "trainings": [asdict(training) for training in trainings]}
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def read_curves(answer: Path) -> dict[str, Curve]:
    """The curves by name. Local. Raises OSError, ValueError where there is no whole answer."""
    rows = [Curve(**row | {"losses": tuple(row["losses"]), "norms": tuple(row["norms"])}) for row in _load(answer)]
    return {row.name: row for row in rows}


def _load(answer: Path) -> list[dict[str, Any]]:
    return json.loads(answer.read_text())["curves"]


def run(world: World, path: Path) -> int:
    """All trainings of the spec at `path`. Collective. Returns the exit code; raises UserError."""
    from ryzen_mpi.cluster.placement import bind_ranks
    from ryzen_mpi.settings import load_settings

    spec = json.loads(path.read_text())
    settings = load_settings("default", spec["words"])
    place = bind_ranks(world, settings)
    import torch

    from ryzen_mpi.comm.rendezvous import process_group

    torch.set_num_threads(settings.hardware.num_threads or place.mine.threads)
    curves = []
    with process_group(world, settings.distributed):
        for row in spec["trainings"]:
            training = Training(**row | {"words": tuple(row["words"])})
            curves.append(train(world, training, spec["words"]))
    if world.is_leader:
        # NaN as Python writes it: these answers are read by this program alone
        write_atomic(Path(spec["answer"]), json.dumps({"curves": [asdict(curve) for curve in curves]}) + "\n")
    return 0


def train(world: World, training: Training, words: Sequence[str]) -> Curve:
    """One training on all ranks. Collective."""
    from ryzen_mpi.settings import load_settings
    from ryzen_mpi.training.choose import make_strategy
    from ryzen_mpi.validation.controls import CONTROLS
    from ryzen_mpi.validation.training import make_step

    settings = load_settings("default", (*words, *training.words))
    strategy = CONTROLS[training.fault] if training.fault else make_strategy
    step = make_step(world.rank, world.size, settings, strategy)
    outcomes = [step.run() for _ in range(training.steps)]
    losses, norms = [outcome.loss for outcome in outcomes], [outcome.gradient_norm for outcome in outcomes]
    held_out = step.evaluate().loss
    return Curve(training.name, world.size, world.nodes, tuple(losses), tuple(norms), held_out)


def main() -> int:
    from ryzen_mpi.cluster.job import run_job

    return run_job(lambda world: run(world, Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
