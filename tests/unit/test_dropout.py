"""Dropout: the mask belongs to the sample, and the share dropped is the share asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ryzen_mpi.model.dropout import SampleDropout, mix


def dropped(keys: tuple[int, ...], p: float = 0.25, place: int = 0, width: int = 500) -> torch.Tensor:
    return SampleDropout(p, place)(torch.ones(len(keys), 8, width), keys)


def test_the_same_key_draws_the_same_mask_wherever_it_sits_in_the_batch():
    together = dropped((3, 4, 5, 6))
    assert torch.equal(together, torch.cat([dropped((3, 4)), dropped((5, 6))]))
    assert torch.equal(together.flip(0), dropped((6, 5, 4, 3)))


def test_other_keys_and_other_places_draw_other_masks():
    first = dropped((3,))
    assert not torch.equal(first, dropped((4,))) and not torch.equal(first, dropped((3,), place=1))


def test_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), dropped((3,))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(dropped((3,)), first)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_dropped_is_p_and_the_mean_is_kept(p):
    out = dropped(tuple(range(50)), p)
    deviation = (p * (1 - p) / out.numel()) ** 0.5
    assert abs((out == 0).double().mean() - p) < 5 * deviation
    torch.testing.assert_close(out[out != 0].unique(), torch.tensor([1 / (1 - p)]))


def test_the_gradient_passes_where_the_value_did():
    x = torch.ones(2, 100, requires_grad=True)
    out = SampleDropout(0.5, 0)(x, (1, 2))
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_nothing_is_dropped_in_evaluation_or_without_keys_or_at_zero():
    x = torch.randn(2, 4)
    assert SampleDropout(0.5, 0).eval()(x, (1, 2)) is x
    assert SampleDropout(0.5, 0)(x, None) is x and SampleDropout(0.0, 0)(x, (1, 2)) is x


def test_a_key_a_sample_is_needed():
    with pytest.raises(ValueError):
        SampleDropout(0.5, 0)(torch.ones(3, 4), (1, 2))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
def test_a_mix_fits_63_bits_and_depends_on_every_number_and_their_order(numbers):
    value = mix(*numbers)
    assert 0 <= value < 2**63 and value == mix(*numbers)
    for place, number in enumerate(numbers):
        assert mix(*numbers[:place], number ^ 1, *numbers[place + 1 :]) != value
    assert mix(*numbers, 0) != value
    if numbers != numbers[::-1]:
        assert mix(*numbers[::-1]) != value


def test_the_keys_of_neighbouring_samples_do_not_collide():
    assert len({mix(seed, sample, step) for seed in range(20) for sample in range(50) for step in range(50)}) == 50_000
