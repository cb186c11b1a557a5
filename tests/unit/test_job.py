"""The frame of a job: what one rank decides all do, what one rank meets all are told."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from threads import Threads

from ryzen_mpi.cluster import job
from ryzen_mpi.cluster.job import all_agree, leader_decides, run_job
from ryzen_mpi.cluster.world import World, alone
from ryzen_mpi.errors import UserError

SIZE = 3


def on_all(act) -> list:
    """The answer, or the UserError, of `act(world)` on every one of SIZE ranks."""
    exchange = Threads(SIZE)

    def one(rank: int):
        exchange._rank.value = rank
        try:
            return act(World(rank, SIZE, rank, SIZE, 0, 1, socket.gethostname(), "threads", exchange))
        except UserError as error:
            return error

    with ThreadPoolExecutor(SIZE) as pool:
        return list(pool.map(one, range(SIZE)))


def refuse(message: str, hint: str | None = None):
    raise UserError(message, hint)


def test_the_leader_alone_acts_and_all_get_its_answer():
    acted = []

    def act(world):
        return leader_decides(world, lambda: acted.append(world.rank) or {"path": "x", "n": [1, None]})

    assert on_all(act) == [{"path": "x", "n": [1, None]}] * SIZE
    assert acted == [0]


def test_the_leaders_refusal_is_raised_on_all():
    told = on_all(lambda world: leader_decides(world, lambda: refuse("no room", "buy some")))
    assert [(error.message, error.hint) for error in told] == [("no room", "buy some")] * SIZE


def test_where_all_succeed_each_keeps_its_own_answer():
    assert on_all(lambda world: all_agree(world, lambda: (world.rank, object))) == [(r, object) for r in range(SIZE)]


def test_the_lowest_ranks_refusal_is_raised_on_all():
    def act(world):
        return all_agree(world, lambda: refuse(f"bad {world.rank}", "h") if world.rank else "fine")

    assert [(e.message, e.hint) for e in on_all(act)] == [("rank 1: bad 1", "h")] * SIZE


def test_after_a_refusal_the_ranks_are_still_in_step():
    def act(world):
        with pytest.raises(UserError):
            all_agree(world, lambda: refuse("x") if world.rank == 2 else None)
        with pytest.raises(UserError):
            leader_decides(world, lambda: refuse("y"))
        return leader_decides(world, lambda: "z")

    assert on_all(act) == ["z"] * SIZE


def test_a_single_rank_is_not_told_its_number():
    with pytest.raises(UserError) as caught:
        all_agree(alone(), lambda: refuse("bad"))
    assert caught.value.message == "bad"


@pytest.fixture
def lonely(monkeypatch):
    monkeypatch.setattr(job, "discover", alone)


def test_the_bodys_code_is_the_jobs(lonely):
    assert run_job(lambda world: 7) == 7


def test_a_user_error_ends_with_code_2_and_no_traceback(lonely, capsys):
    assert run_job(lambda world: refuse("bad key", "good key")) == 2
    assert capsys.readouterr().err == "error: bad key\n  hint: good key\n"


def test_our_own_bug_ends_with_code_1_a_traceback_and_the_rank(lonely, capsys):
    assert run_job(lambda world: 1 // 0) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and "rank 0 on" in told.splitlines()[-1] and "ZeroDivisionError" in told


def test_an_interrupt_ends_with_code_130(lonely, capsys):
    def body(world):
        raise KeyboardInterrupt

    assert run_job(body) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("hint", "shown"), [(0, 1), (3, 0)])
def test_a_world_that_is_refused_is_told_of_by_rank_0_alone(monkeypatch, capsys, hint, shown):
    monkeypatch.setattr(job, "discover", lambda: refuse("strangers"))
    monkeypatch.setattr(job, "rank_hint", lambda: hint)
    assert run_job(lambda world: 0) == 2
    assert capsys.readouterr().err.count("error: strangers") == shown
