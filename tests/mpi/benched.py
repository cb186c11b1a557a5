"""Several benchmarks in one launch, each as the command line gives it: `benched.py FOLDER JSON`.

JSON is a list of command lines; rank 0 writes what the n-th printed, and its exit code, to FOLDER. A command line that
begins with `broken` runs with an MPI all-reduce that does nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

from ryzen_mpi.cluster.job import run_job
from ryzen_mpi.cluster.world import World
from ryzen_mpi.commands.bench import command, run_on_rank
from ryzen_mpi.errors import EXIT_USER_ERROR, UserError


def one(world: World, words: list[str]) -> tuple[int, str]:
    """Exit code and output of one command line. Collective."""
    out = io.StringIO()
    with contextlib.ExitStack() as stack:
        if words[0] == "broken":
            words = words[1:]
            stack.enter_context(broken_all_reduce())
        params = dict(command.make_context("bench", list(words)).params)
        params.pop("list_all"), params.pop("ranks")
        stack.enter_context(contextlib.redirect_stdout(out))
        try:
            return run_on_rank(world, params.pop("name"), params), out.getvalue()
        except UserError as error:
            return EXIT_USER_ERROR, out.getvalue() + f"error: {error}\n"


@contextlib.contextmanager
def broken_all_reduce():
    """Raw all-reduce leaves every rank's memory as it is."""
    from ryzen_mpi.bench.sides import Raw

    original = Raw.prepare

    def prepare(self, operation, *rest):
        prepared = original(self, operation, *rest)
        prepared.calls = [lambda: None for _ in prepared.calls]
        return prepared

    Raw.prepare = prepare
    yield
    Raw.prepare = original


def body(world: World) -> int:
    folder = Path(sys.argv[1])
    for number, words in enumerate(json.loads(sys.argv[2])):
        code, said = one(world, words)
        codes = world.exchange.allgather(code)
        if world.is_leader:
            (folder / f"{number}.json").write_text(json.dumps({"codes": codes, "out": said}))
    return 0


if __name__ == "__main__":
    sys.exit(run_job(body))
