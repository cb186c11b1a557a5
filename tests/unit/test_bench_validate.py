"""-c can tell right from wrong: the reference is exact, and a result in another place or of another rank differs."""

from __future__ import annotations

import pytest
import torch

from ryzen_mpi.bench.options import DATATYPES
from ryzen_mpi.bench.prepared import Unavailable, vectors
from ryzen_mpi.bench.validate import expected, modulus, pattern


@pytest.mark.parametrize("name", DATATYPES)
@pytest.mark.parametrize("ranks", [2, 3, 4, 64])
def test_sums_are_exact_in_every_datatype(name, ranks):
    datatype = DATATYPES[name]
    below = modulus(datatype, ranks, "all_reduce")
    total = expected("all_reduce", 0, ranks, 0, 0, 5000, below, 0, 5000)
    assert torch.equal(total.to(getattr(torch, datatype.torch)).to(torch.int64), total)
    assert below >= 2


def test_more_ranks_than_a_datatype_can_count_are_refused():
    with pytest.raises(Unavailable, match="bfloat16"):
        modulus(DATATYPES["bfloat16"], 257, "all_reduce")
    assert modulus(DATATYPES["bfloat16"], 10_000, "broadcast") > 100  # nothing is added there


def test_inputs_tell_rank_set_and_place():
    base = pattern(0, 0, 0, 64, 1009)
    for other in (pattern(1, 0, 0, 64, 1009), pattern(0, 1, 0, 64, 1009), pattern(0, 0, 1, 64, 1009)):
        assert not torch.equal(base, other)
    assert torch.equal(pattern(0, 0, 8, 56, 1009), base[8:])


def test_all_to_all_expects_every_ranks_block():
    answer = expected("all_to_all", 1, 3, 0, 0, 6, 1009, 0, 6)
    assert torch.equal(answer, torch.cat([pattern(rank, 0, 2, 2, 1009) for rank in range(3)]))


def test_sets_of_memory_do_not_share_a_cache_line():
    first, second = vectors(3, torch.float32, 2)
    assert second.data_ptr() - first.data_ptr() == 64 and first.numel() == 3


@pytest.mark.parametrize("start", [0, 5, 1009, 4000])
@pytest.mark.parametrize("below", [2, 9, 1009])
def test_a_sum_is_that_of_the_inputs_wherever_it_begins_and_ends(start, below):
    """Only one period of it is computed, and put together from that."""
    for count in (0, 1, below - 1, below, below + 1, 3 * below + 2):
        whole = torch.arange(start, start + count)
        inputs = [(whole * 31 + rank * 17 + 3 * 7 + 1) % below for rank in range(5)]
        assert torch.equal(pattern(4, 3, start, count, below), inputs[4])
        assert torch.equal(expected("all_reduce", 0, 5, 3, start, count, below, 0, count), sum(inputs))
