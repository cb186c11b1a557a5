"""A worker with checks of its own, each behaving in one way: what `ryzen_mpi.validation.worker` would run."""

from __future__ import annotations

import os
import sys
import time

from ryzen_mpi.errors import UserError
from ryzen_mpi.validation import worker
from ryzen_mpi.validation.registry import CHECKS, Check, Context
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

PLANTED: dict[str, Check] = {}
"""Apart from the real ones, which other tests list."""


def check(name: str, ids: str, about: str, where, limit_s: float = 60.0, **least):
    def register(run):
        PLANTED[name] = Check(name, tuple(ids.split()), about, where, limit_s, run, **least)
        return run

    return register


@check("fine", "E1", "measures and tells", "one")
def fine(context: Context) -> Findings:
    context.tell("half of it")
    return Findings((Measured("figure", 3.0, "1"), not_measurable("heat", "C", "no sensor")))


@check("together", "E2", "runs on all ranks", "ranks")
def together(context: Context) -> Findings:
    ranks = context.world.exchange.allgather(context.world.rank)
    return Findings((Measured("figure", float(sum(ranks)), "1"), Measured("ranks", float(len(ranks)), "1")))


@check("dies", "E1", "kills itself", "one")
def dies(context: Context) -> Findings:
    os.kill(os.getpid(), 9)


@check("one_rank_dies", "E1", "one of the ranks is killed", "ranks")
def one_rank_dies(context: Context) -> Findings:
    if context.world.rank == context.world.size - 1:
        os.kill(os.getpid(), 9)
    context.world.exchange.allgather(0)
    time.sleep(60)


@check("hangs", "E1", "never ends", "one", limit_s=3)
def hangs(context: Context) -> Findings:
    context.tell("hanging")
    time.sleep(1000)


@check("refuses", "E1", "is asked for what it cannot do", "one")
def refuses(context: Context) -> Findings:
    raise UserError("so much is not there", "ask for less")


@check("needs_nodes", "E9", "needs three nodes", "nodes", least_nodes=3)
def needs_nodes(context: Context) -> Findings:
    raise AssertionError("is not to be run")


if __name__ == "__main__":
    CHECKS.update(PLANTED)
    sys.exit(worker.main())
