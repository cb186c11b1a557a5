"""Ranks that were told to stop while their supervisor was not: what follows depends on the job they are in."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from ryzen_mpi.supervisor.attempt import Outcome
from ryzen_mpi.supervisor.run import STOPPED, Supervisor


class Calls(list):
    def say(self, *words: object, **figures: object) -> None:
        self.append(words[0])


def asked(words: str, goes_on: bool, saved: int = 20) -> tuple[int | None, SimpleNamespace, list[str]]:
    """What `_unasked` answers, what it left, and the events it told."""
    said = Calls()
    supervisor = SimpleNamespace(
        job=SimpleNamespace(nodes=SimpleNamespace(job_goes_on=lambda: goes_on)),
        state=SimpleNamespace(fruitless=2),
        asked=SimpleNamespace(stop=0),
        voice=said,
        last="",
        _how_to_go_on=lambda: "start again",
    )
    record = SimpleNamespace(saved=saved, resumed=10)
    return Supervisor._unasked(supervisor, Outcome("stopped", words=words), record), supervisor, said


@pytest.mark.parametrize("words", ["SIGUSR1 after step 20", "SIGTERM after step 20"])
def test_outside_a_batch_job_a_person_did_it(words):
    code, supervisor, said = asked(words, goes_on=False)
    assert (code, supervisor.asked.stop, said) == (STOPPED, 0, ["stopped"])


def test_a_warning_to_the_ranks_alone_is_taken_for_the_jobs():
    code, supervisor, said = asked("SIGUSR1 after step 20", goes_on=True)
    assert (code, supervisor.asked.stop, said) == (None, signal.SIGUSR1, ["warned"])


@pytest.mark.parametrize(("saved", "fruitless"), [(20, 0), (10, 3)])
def test_a_stray_signal_is_one_more_attempt_that_counts_where_nothing_was_saved(saved, fruitless):
    code, supervisor, said = asked("SIGTERM after step 20", True, saved)
    assert (code, supervisor.asked.stop, said) == (None, 0, ["stray-signal"])
    assert supervisor.state.fruitless == fruitless and "SIGTERM" in supervisor.last
