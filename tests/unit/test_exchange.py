"""StoreExchange over a real store: every rank hears every rank, in rank order, round by round."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from ryzen_mpi.cluster.exchange import StoreExchange

SIZE = 4


@pytest.fixture
def ranks():  # a generator, so that the server outlives the test
    limit = timedelta(seconds=20)
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=limit)
    clients = [TCPStore("127.0.0.1", server.port, is_master=False, timeout=limit) for _ in range(SIZE)]
    yield [StoreExchange(client, rank, SIZE) for rank, client in enumerate(clients)]


def together(ranks, act):
    """`act(rank's exchange)` on all ranks at once."""
    with ThreadPoolExecutor(SIZE) as pool:
        return list(pool.map(act, ranks))


def test_allgather_gives_every_rank_all_values_in_rank_order(ranks):
    sent = [None, {"name": "ü", "n": 2**60}, [1.5, "x" * 100_000], False]
    assert together(ranks, lambda x: x.allgather(sent[x.rank])) == [sent] * SIZE


def test_broadcast_gives_every_rank_the_leaders_value(ranks):
    assert together(ranks, lambda x: x.broadcast(f"of {x.rank}")) == ["of 0"] * SIZE


def test_rounds_do_not_mix_though_ranks_run_ahead(ranks):
    def many(exchange):
        return [exchange.allgather([exchange.rank, turn]) for turn in range(30)]

    expected = [[[rank, turn] for rank in range(SIZE)] for turn in range(30)]
    assert together(ranks, many) == [expected] * SIZE
