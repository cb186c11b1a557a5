"""The command of an attempt: what the person gave after `--`, with an attempt's ranks, nodes and guards in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ryzen_mpi.errors import UserError

AUTO = "auto"
MPIRUNS = ("mpirun", "mpiexec", "prterun", "orterun")
SRUN = "srun"
_COUNTS = {"mpirun": ("-np", "--np", "-n", "-c"), "srun": ("-n", "--ntasks")}
_EXAMPLE = "mpirun -np 4 python -m ryzen_mpi.train …"
_GUARD = ("-m", "ryzen_mpi.supervisor.guard")


@dataclass(frozen=True)
class Command:
    """A launch command taken apart.

    Attributes:
        launcher: its name and options without the number of ranks; empty where the program runs alone.
        ranks: as the person gave them, or None.
        program: interpreter, module and arguments.
    """

    launcher: tuple[str, ...]
    ranks: int | None
    program: tuple[str, ...]

    @property
    def kind(self) -> str:
        """`mpirun`, `srun`, `auto` or `none`."""
        if not self.launcher:
            return "none"
        name = Path(self.launcher[0]).name
        return "mpirun" if name in MPIRUNS else name

    def with_launcher(self, name: str) -> Command:
        """The same program under launcher `name`, with what this package wants of it."""
        return replace(self, launcher=(name, *(_OURS[Path(name).name])))

    def words(self, ranks: int, hosts: Mapping[str, int], plan: Path, extra: Sequence[str] = ()) -> list[str]:
        """The command for `ranks` ranks, guarded.

        Args:
            hosts: ranks by node; empty where there is only this machine.
            plan: file with the guards' plan.
            extra: settings of this attempt, `section.key=value`.
        """
        return self.bare(ranks, hosts, (sys.executable, *_GUARD, str(plan), "--", *self.program, *extra))

    def bare(self, ranks: int, hosts: Mapping[str, int], program: Sequence[str] = ()) -> list[str]:
        """The launcher's words for `ranks` ranks and `program`, or the command's own."""
        program = program or self.program
        if self.kind == "none":
            return list(program)
        if self.kind == SRUN:
            where = [f"--nodes={len(hosts)}", f"--nodelist={','.join(hosts)}"] if hosts else []
            where += [f"--ntasks-per-node={max(hosts.values())}"] if hosts else []
        else:
            where = ["--host", ",".join(f"{name}:{count}" for name, count in hosts.items())] if hosts else []
        return [*self.launcher, _COUNTS[self.kind][0], str(ranks), *where, *program]


# Ranks fill the nodes in order; this package divides a node's NUMA domains and cores among its ranks itself, which it
# can only do with ranks that are not bound: PRRTE's default is one core each, and its `--map-by numa` over several
# nodes puts all ranks on the first.
_OURS = {
    **{name: ("--map-by", "slot", "--bind-to", "none") for name in MPIRUNS},
    SRUN: ("--mpi=pmix", "--no-kill", "--cpu-bind=none", "--kill-on-bad-exit=0"),
}


def parse(words: Sequence[str]) -> Command:
    """Takes `mpirun … python …` apart. Raises UserError for what cannot be started again with other numbers."""
    if not words:
        raise UserError("nothing to supervise", f"after --, give the command: … -- {_EXAMPLE}")
    start = next((place for place, word in enumerate(words) if _is_program(word)), None)
    if start is None:
        raise UserError(
            f"no program in {' '.join(words)!r}", f"it has to begin with python or ryzen-mpi, as in: {_EXAMPLE}"
        )
    launcher, program = list(words[:start]), tuple(words[start:])
    if not launcher:
        return Command((), 1, program)
    name = Path(launcher[0]).name
    if launcher[0] != AUTO and name not in (*MPIRUNS, SRUN):
        raise UserError(f"launcher {launcher[0]!r} is not known", f"known: {', '.join((*MPIRUNS, SRUN))}, {AUTO}")
    kind = SRUN if name == SRUN else "mpirun"
    ranks = None
    for place, word in enumerate(launcher[1:], start=1):
        glued = re.fullmatch(r"-n(\d+)", word)  # srun -n4
        flag, equals, value = ("-n", "", glued[1]) if glued else word.partition("=")
        if flag in _COUNTS[kind]:
            whole = bool(equals or glued)
            text = value if whole else launcher[place + 1] if place + 1 < len(launcher) else ""
            if not text.isdigit() or int(text) < 1:
                raise UserError(f"{flag} {text}: not a number of ranks", f"as in: {_EXAMPLE}")
            ranks = int(text)
            del launcher[place : place + (1 if whole else 2)]
            break
    return Command(tuple(launcher), ranks, program)


def _is_program(word: str) -> bool:
    name = Path(word).name
    return name.startswith("python") or name == "ryzen-mpi"


def option(program: Sequence[str], name: str) -> str | None:
    """The value of the program's option `--name VALUE` or `--name=VALUE`; None where it is not given."""
    for place, word in enumerate(program):
        if word == name and place + 1 < len(program):
            return program[place + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def overrides(program: Sequence[str]) -> list[str]:
    """The `section.key=value` words of the program."""
    return [word for word in program if "=" in word and "." in word.partition("=")[0] and not word.startswith("-")]
