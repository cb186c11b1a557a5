"""How vectors are cut: every element is somebody's, and only one's."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ryzen_mpi.training.zero.cut import ALIGNMENT, Cut, Owner


@st.composite
def cuts(draw):
    size, bucket = draw(st.integers(1, 20_000)), draw(st.integers(1, 8000))
    return Cut.of(size, bucket, draw(st.integers(1, 4)), draw(st.integers(1, 3)))


def owners(cut: Cut) -> list[Owner]:
    return [Owner(local, node) for node in range(cut.nodes) for local in range(cut.local)]


@given(cuts())
def test_every_element_belongs_to_one_rank_and_all_have_the_same_number(cut):
    assert cut.part % ALIGNMENT == 0 and cut.padded >= cut.size
    assert cut.padded - cut.size < cut.buckets * ALIGNMENT * cut.local * cut.nodes
    times = torch.zeros(cut.padded, dtype=torch.int64)
    for owner in owners(cut):
        owned = cut.owned(times, owner)
        assert owned.numel() == cut.shard
        owned += 1
        assert all(int(owned[k].storage_offset()) == cut.start(k, owner) for k in range(cut.buckets))
    assert bool((times == 1).all())


@given(cuts(), st.data())
def test_before_counts_the_elements_of_a_rank_in_front_of_a_boundary(cut, data):
    boundary = data.draw(st.integers(0, cut.padded))
    front = (torch.arange(cut.padded) < boundary).long()
    for owner in owners(cut):
        held = cut.owned(front, owner).reshape(-1)
        assert cut.before(boundary, owner) == int(held.sum())
        assert bool((held[: cut.before(boundary, owner)] == 1).all())  # they come first in the shard


@given(cuts(), st.data())
def test_overlaps_say_where_a_stretch_lies_in_the_shards(cut, data):
    begin = data.draw(st.integers(0, cut.size))
    end = data.draw(st.integers(begin, cut.size))
    vector, found = torch.arange(cut.padded), torch.zeros(end - begin, dtype=torch.int64)
    for owner in owners(cut):
        shard = cut.owned(vector, owner).reshape(-1)
        for there, here, length in cut.overlaps(begin, end, owner):
            assert torch.equal(shard[there : there + length], vector[begin + here : begin + here + length])
            found[here : here + length] += 1
    assert bool((found == 1).all())


@given(cuts())
def test_stretches_put_together_are_the_vector_and_put_undoes_them(cut):
    vector, whole = torch.arange(1, cut.padded + 1), torch.zeros(cut.size, dtype=torch.int64)
    for owner in owners(cut):
        shard = cut.owned(vector, owner).reshape(-1)
        again = torch.zeros_like(shard)
        for begin, values in cut.stretches(shard, owner):
            whole[begin : begin + values.numel()] += values
            cut.put(again, begin, values, owner)
        real = shard <= cut.size
        assert torch.equal(again[real], shard[real]) and not again[~real].any()
    assert torch.equal(whole, vector[: cut.size])
