"""Sums over nodes in fewer bytes: as the naive compressors have them, the same everywhere, and nothing is lost."""

import math

import naive_compression as naive
import numpy as np
import pytest
import torch

from ryzen_mpi.comm.arena import Locality
from ryzen_mpi.comm.compression import powersgd, topk
from ryzen_mpi.comm.compression.choose import COMPRESSORS, make_compressor
from ryzen_mpi.comm.compression.wire import Traffic, Wire
from ryzen_mpi.comm.waiting import Patience
from ryzen_mpi.config import Distributed

NAMES = tuple(COMPRESSORS)
LOSSY = ("powersgd", "topk")
SETTINGS = Distributed(compression_rank=3, compression_share=0.05)
ROUNDS = 4


@pytest.fixture(scope="module", params=[1, 2], ids=["nodes of 1", "nodes of 2"])
def nodes(world, request):
    """The ranks this one would talk to, and the patience to do it; None where there is nobody."""
    locality = Locality.discover(world.comm, request.param)
    yield locality.across
    locality.close()


@pytest.fixture
def small_pieces(monkeypatch):
    """So that little data is many pieces, the last of them shorter."""
    for module in ("exact", "casts", "topk"):
        monkeypatch.setattr(f"ryzen_mpi.comm.compression.{module}.PIECE_BYTES", 4096)
    monkeypatch.setattr(topk, "LARGEST_CHUNK", 300)
    monkeypatch.setattr(powersgd, "ROWS", 7)


def made(name, nodes):
    return COMPRESSORS[name](Wire(nodes, Patience(60.0)), SETTINGS)


def drawn(node, number, shape, dtype=torch.float64):
    """What a node has in a round, as large as gradients may be: from 1e-6 to 1e2."""
    source = torch.Generator().manual_seed(100 * node + number)
    values = torch.randn(shape, generator=source, dtype=torch.float64)
    return (values * 10 ** (8 * torch.rand(shape, generator=source, dtype=torch.float64) - 6)).to(dtype)


def references(name, nodes, size):
    """One for every part."""
    _, width = topk.chunks(size)
    make = {
        "none": lambda number: None,
        "bfloat16": lambda number: naive.Bfloat16(),
        "float16": lambda number: naive.Float16(),
        "topk": lambda number: naive.TopK(SETTINGS.compression_share, width),
        "powersgd": lambda number: naive.PowerSgd(SETTINGS.compression_rank, number, nodes.size),
    }
    return [make[name](number) for number in range(nodes.size)]


def summed(reference, rows):
    return rows.sum(0) if reference is None else reference.sum(rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_scattered_sum_is_the_naive_one_round_after_round(nodes, small_pieces, name):
    if nodes is None:
        return
    size = 1000
    if name == "float16":  # a scale is of a piece, the naive one has one
        size = 4096 // 8 // nodes.size
    compressor, expected = made(name, nodes), references(name, nodes, size)
    own = torch.empty(size, dtype=torch.float64)
    for number in range(ROUNDS):
        everyone = torch.stack([drawn(node, number, (nodes.size, size)) for node in range(nodes.size)])
        compressor.begin()
        compressor.reduce_scatter(everyone[nodes.rank].clone(), own)
        compressor.keep()
        wanted = summed(expected[nodes.rank], everyone[:, nodes.rank].numpy())
        assert np.abs(own.numpy() - wanted).max() < 1e-9, number


@pytest.mark.parametrize("name", ["none", *LOSSY])
def test_an_all_reduce_is_the_naive_one_round_after_round(nodes, small_pieces, name):
    if nodes is None:
        return
    size = 1501  # does not divide
    part = size if name == "topk" else math.ceil(size / nodes.size)
    compressor, expected = made(name, nodes), references(name, nodes, part)
    for number in range(ROUNDS):
        everyone = np.stack([drawn(node, number, size).numpy() for node in range(nodes.size)])
        values = torch.from_numpy(everyone[nodes.rank].copy())
        compressor.begin()
        compressor.all_reduce(values)
        compressor.keep()
        padded = np.pad(everyone, ((0, 0), (0, -size % part)))
        parts = zip(expected, np.split(padded, padded.shape[1] // part, axis=1), strict=False)
        wanted = np.concatenate([summed(reference, rows) for reference, rows in parts])[:size]
        assert np.abs(values.numpy() - wanted).max() < 1e-9, number


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_casts_are_near_the_sum_at_any_scale(nodes, small_pieces, name, scale):
    if nodes is None:
        return
    everyone = [drawn(node, 0, 3001).float() * scale for node in range(nodes.size)]
    values, wanted = everyone[nodes.rank].clone(), sum(one.double() for one in everyone)
    made(name, nodes).all_reduce(values)
    room = (2.0**-8 if name == "bfloat16" else 2.0**-11) * 2 * sum(one.double().abs() for one in everyone)
    # what is 2^29 times smaller than the largest of its piece may lose bits in float16
    room += 2.0**-38 * max(float(one.abs().max()) for one in everyone) * nodes.size
    assert bool(((values.double() - wanted).abs() <= room).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_all_nodes_get_the_same_bits(nodes, small_pieces, name, dtype):
    if nodes is None:
        return
    compressor = made(name, nodes)
    for number in range(ROUNDS):
        values = drawn(nodes.rank, number, 2011, dtype)
        compressor.begin()
        compressor.all_reduce(values)
        compressor.keep()
        everyone = nodes.allgather(values.numpy().tobytes())
        assert all(other == everyone[0] for other in everyone) and bool(values.isfinite().all())


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("way", ["reduce_scatter", "all_reduce"])
def test_what_was_not_sent_is_sent_later(nodes, small_pieces, name, way):
    """All that ever went in is what came out and what is still owed."""
    if nodes is None:
        return
    compressor, size = made(name, nodes), 1200
    given, got = torch.zeros(nodes.size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for number in range(ROUNDS):
        parts = drawn(nodes.rank, number, (nodes.size, size))
        given += parts
        compressor.begin()
        if way == "all_reduce":
            compressor.all_reduce(values := parts.view(-1))
            own = values.view(nodes.size, size)[nodes.rank]
        else:
            compressor.reduce_scatter(parts, own := torch.empty(size, dtype=torch.float64))
        compressor.keep()
        got += own
    owed = compressor.error.view(-1)[: given.numel()] if compressor.error.shape[0] == 1 else compressor.error
    missing = given - (owed.reshape(nodes.size, -1)[:, :size])
    everyone = sum(torch.from_numpy(one) for one in nodes.allgather(missing.numpy()))
    assert float((everyone[nodes.rank] - got).abs().max()) < 1e-9
    assert float(compressor.error.abs().max()) > 0.1  # some of it is


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("way", ["reduce_scatter", "all_reduce"])
@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_is_not_finite_is_seen_and_leaves_nothing_behind(nodes, small_pieces, name, way, bad):
    if nodes is None:
        return
    compressor, size = made(name, nodes), 1100

    def round_of(number, plant):
        values = drawn(nodes.rank, number, (nodes.size, size), torch.float32)
        if plant and nodes.rank == nodes.size - 1:
            values[0, 777] = bad
        compressor.begin()
        if way == "all_reduce":
            compressor.all_reduce(values.view(-1))
            return values
        compressor.reduce_scatter(values, own := torch.empty(size))
        return own

    round_of(0, plant=False)
    compressor.keep()
    seen = bool(round_of(1, plant=True).isfinite().all())
    assert not any(nodes.allgather(seen)) if way == "all_reduce" else not nodes.allgather(seen)[0]
    after = round_of(2, plant=False)  # `keep` was not called
    fresh, compressor = compressor, made(name, nodes)
    assert torch.equal(after, round_of(2, plant=False)) and fresh is not compressor
    assert bool(after.isfinite().all())


def test_what_fits_the_rank_or_the_share_is_sent_whole(nodes, small_pieces):
    if nodes is None:
        return
    everyone = [torch.outer(drawn(9, 0, 30), drawn(node, 0, 30)).view(-1) for node in range(nodes.size)]
    values = torch.cat([everyone[nodes.rank]] * nodes.size)
    compressor = made("powersgd", nodes)
    compressor.all_reduce(values)  # matrices of rank 1, all with the same columns
    assert float((values - torch.cat([sum(everyone)] * nodes.size)).abs().max()) < 1e-9
    assert float(compressor.error.abs().max()) < 1e-9
    sparse = torch.zeros(600)
    sparse[[5, 299, 300, 599]] = torch.tensor([1.0, -2.0, 0.5, 4.0])
    compressor = made("topk", nodes)
    compressor.all_reduce(values := sparse.clone())
    assert torch.equal(values, nodes.size * sparse) and not compressor.error.any()


@pytest.mark.parametrize("size", [0, 1, 2, 63])
@pytest.mark.parametrize("name", NAMES)
def test_little_or_nothing_can_be_summed(nodes, name, size):
    if nodes is None:
        return
    values = torch.full((size,), 1.5)
    compressor = made(name, nodes)
    for _ in range(1 if name != "topk" else 64):  # as many rounds as it takes to send all
        compressor.all_reduce(values)
        if name != "topk":
            assert torch.allclose(values, torch.tensor(1.5 * nodes.size))
        values.zero_()
    if name == "topk":
        assert size == 0 or not compressor.error.any()


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_that_are_counted_are_those_that_mpi_was_given(nodes, name, monkeypatch):
    if nodes is None:
        return
    counted = []

    class Spy:
        size, rank = nodes.size, nodes.rank

        def Ialltoall(self, sent, got):
            counted.append(memoryview(sent).nbytes * (self.size - 1) // self.size)
            return nodes.Ialltoall(sent, got)

        def Iallgather(self, sent, got):
            counted.append(memoryview(sent).nbytes * (self.size - 1))
            return nodes.Iallgather(sent, got)

    compressor = COMPRESSORS[name](Wire(Spy(), Patience(60.0)), SETTINGS)
    compressor.begin()
    size = 64 * 1024
    compressor.reduce_scatter(torch.ones(nodes.size, size), torch.empty(size))
    assert compressor.traffic.sent == sum(counted)
    assert (compressor.traffic.sent > 0) == (nodes.size > 1)  # where nodes differ, a rank may have no counterpart
    expected = {"none": 1, "bfloat16": 2, "float16": 2, "topk": 1 / SETTINGS.compression_share}
    expected["powersgd"] = size / (2 * (256 + 256) * SETTINGS.compression_rank)
    assert compressor.traffic.sent * expected[name] == pytest.approx(4 * size * (nodes.size - 1), rel=0.01)
    compressor.begin()
    assert compressor.traffic == Traffic(0, 0)


def test_on_one_node_there_is_no_compressor(world, ryzen):
    assert world.nodes == 1 and make_compressor(Distributed(compression="topk"), ryzen) is None
