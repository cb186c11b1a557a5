"""How often the checks call what they time: as often as OSU does, and less where that would take minutes."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from ryzen_mpi.bench import catalog, options, pairs
from ryzen_mpi.bench.prepared import Prepared
from ryzen_mpi.cluster.world import alone
from ryzen_mpi.validation.probes import calls


@pytest.fixture
def machine(monkeypatch):
    """`timed` on a machine whose calls take `call_s` each, by a clock of its own."""
    state = SimpleNamespace(call_s=0.0, now=0.0, asked=[])

    @contextmanager
    def ready(*_):
        yield SimpleNamespace(clear=lambda: None)

    def measure(comm, sides, iterations, warmup, meet):
        state.now += state.call_s * (iterations + warmup)
        state.asked.append(iterations)
        return {name: f"{iterations} calls" for name in sides}

    monkeypatch.setattr(calls, "_ready", ready)
    monkeypatch.setattr(calls, "measure", measure)
    monkeypatch.setattr(calls, "time", SimpleNamespace(monotonic=lambda: state.now))
    state.take = lambda: calls.timed(alone(), None, "all_reduce", 8, "float", budget_s=10.0)
    return state


@pytest.mark.parametrize(
    ("call_s", "wanted"),
    [(1e-5, "1000 calls"), (0.05, "181 calls"), (0.6, f"{calls.TRIED} calls"), (30.0, f"{calls.TRIED} calls")],
)
def test_calls_are_as_many_as_fit_into_their_time(machine, call_s, wanted):
    machine.call_s = call_s
    assert machine.take() == wanted
    assert machine.asked[0] == calls.TRIED


@pytest.mark.parametrize(("call_s", "wanted"), [(1e-5, (100, 10)), (0.1, (20, 2)), (3.0, (pairs.LEAST, 0))])
def test_a_pair_of_ranks_takes_as_many_round_trips_as_fit(monkeypatch, call_s, wanted):
    state = SimpleNamespace(now=0.0)

    def call():
        state.now += call_s

    monkeypatch.setattr(pairs, "time", SimpleNamespace(monotonic=lambda: state.now))
    benchmark = catalog.find("all_pairs")
    few = {"raw": pairs._first_sets(Prepared([call] * 64))}
    assert len(few["raw"].calls) == pairs.TRIED

    def fitting(**words):
        return pairs._fitting(alone(), few, pairs.Pairs(benchmark, options.parse(benchmark, **words), []), 8)

    assert fitting() == wanted
    assert fitting(iterations=500, warmup=5) == (500, 5)  # who asks for so many gets them
