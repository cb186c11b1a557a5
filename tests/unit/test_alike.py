"""One number of all bits of the weights: any bit that flips shows, wherever it is."""

import pytest
import torch

from ryzen_mpi.training.alike import weights_number

SIZES = [1, 3, 4095, 8192 * 3 + 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_any_flipped_bit_changes_the_number(dtype, size):
    vector = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = weights_number([vector])
    bits = vector.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
    for place in {0, size // 2, size - 1}:
        for bit in (0, 7, 8 * dtype.itemsize - 2):
            bits[place] ^= 1 << bit
            assert weights_number([vector]) != before, (place, bit)
            bits[place] ^= 1 << bit
    assert weights_number([vector]) == before


def test_what_has_changed_places_shows():
    one, other = torch.arange(50_000.0), torch.arange(50_000.0) + 7
    assert weights_number([one, other]) != weights_number([other, one])
    moved = torch.cat([one[40_000:], one[:40_000]])
    assert weights_number([moved]) != weights_number([one])


def test_nan_and_minus_zero_are_bits_like_others():
    assert weights_number([torch.tensor([0.0])]) != weights_number([torch.tensor([-0.0])])
    assert weights_number([torch.tensor([float("nan")])]) == weights_number([torch.tensor([float("nan")])])
