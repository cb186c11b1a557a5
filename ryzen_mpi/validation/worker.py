"""`python -m ryzen_mpi.validation.worker SPEC`: one check in its own process, on one rank or on all.

Rank 0 writes the findings beside the spec, whole or not at all; nothing else is believed of how it ended.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ryzen_mpi.cluster.phases import phase
from ryzen_mpi.errors import EXIT_USER_ERROR, UserError
from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.validation.registry import Check, Context, find
from ryzen_mpi.validation.result import Findings, plain

if TYPE_CHECKING:
    from ryzen_mpi.cluster.world import World

PROGRESS = "progress: "
"""What a line of standard error begins with that is for the person who waits."""


@dataclass(frozen=True)
class Spec:
    """What the runner tells a worker; JSON.

    Attributes:
        check, phase: names.
        ranks: of the phase, or as asked.
        folder: of the check.
        answer: file to write the findings to.
        overrides, options: see `registry.Context`.
    """

    check: str
    phase: str
    ranks: int
    folder: str
    answer: str
    overrides: tuple[str, ...]
    options: dict[str, Any]

    def write(self, path: Path) -> None:
        write_atomic(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Spec:
        content = json.loads(path.read_text())
        return cls(**content | {"overrides": tuple(content["overrides"])})

    def context(self, world: World | None) -> Context:
        from ryzen_mpi.scaling.launch import find_nodes

        leads = world is None or world.is_leader
        return Context(
            phase(self.phase),
            self.ranks,
            Path(self.folder),
            world,
            find_nodes() if world is None else None,
            self.overrides,
            self.options,
            _tell if leads else lambda line: None,
        )


def _tell(line: str) -> None:
    print(f"{PROGRESS}{line}", file=sys.stderr, flush=True)


def run(spec: Spec, check: Check, world: World | None) -> int:
    """The check on this rank; rank 0 writes what it found. Collective where there is a world. Returns the exit code."""
    findings = check.run(spec.context(world))
    assert isinstance(findings, Findings), f"the check {check.name} handed back {type(findings).__name__}"
    if world is None or world.is_leader:
        machine, versions = _where_it_ran()
        content = {"findings": plain(asdict(findings)), "machine": machine, "versions": versions}
        if world is not None:
            content["world"] = {"ranks": world.size, "nodes": world.nodes}
        write_atomic(Path(spec.answer), json.dumps(content, allow_nan=False))
    return 0


def _where_it_ran() -> tuple[dict[str, Any], dict[str, str]]:
    from ryzen_mpi import __version__
    from ryzen_mpi.bench.machine import machine

    facts = machine()
    facts.pop("load_before", None)
    return facts, {"ryzen_mpi": __version__, "torch": facts["torch"], "python": facts["python"]}


def main() -> int:
    spec = Spec.read(Path(sys.argv[1]))
    check = find(spec.check)
    if check.where in ("ranks", "nodes"):
        from ryzen_mpi.cluster.job import run_job

        return run_job(lambda world: run(spec, check, world))
    try:
        return run(spec, check, None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
