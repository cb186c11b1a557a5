"""The kernel's update is PyTorch's, in one pass, and leaves the rounded weights where the model reads them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ryzen_mpi.comm.region import _kernel
from ryzen_mpi.config import Training
from ryzen_mpi.training.optimizer import SHARE, FlatOptimizer, shares

WIDE = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
CASES = {
    "AdamW": {},
    "Adam": dict(optimizer="adam"),
    "Adam without decay": dict(optimizer="adam", weight_decay=0.0),
    "AdamW without decay": dict(weight_decay=0.0),
    "no first moment": dict(beta1=0.0),
    "no second moment": dict(beta2=0.0),
    "a short first moment": dict(beta1=0.3),
}
RATE = 1e-3
WORKING = [
    (torch.float32, None),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float32),
    (torch.float64, None),
    (torch.float64, torch.float64),
]


@pytest.fixture(autouse=True, scope="module")
def kernel():
    if _kernel is None:
        pytest.fail("the kernel is not built: these tests compare nothing")


@dataclass
class Flat:
    master: Tensor
    gradient: Tensor
    decayed: int


def made(size: int, decayed: int, dtype: torch.dtype, plain: bool, working: Tensor | None = None, **settings):
    """An optimiser in the middle of its work; the same numbers for the same size."""
    random = torch.Generator().manual_seed(size)
    master, gradient, first = (torch.randn(size, dtype=dtype, generator=random) * scale for scale in (0.02, 0.1, 0.1))
    moments = (first, torch.rand(size, dtype=dtype, generator=random) * 0.01)
    settings = Training(**{"weight_decay": 0.1, **settings})
    optimizer = FlatOptimizer(Flat(master, gradient, decayed), settings, moments, working, plain)
    optimizer.updates = 7
    return optimizer


def both(*args, **settings) -> tuple[FlatOptimizer, FlatOptimizer]:
    return made(*args, plain=False, **settings), made(*args, plain=True, **settings)


def state(optimizer: FlatOptimizer) -> dict[str, Tensor]:
    return {"master": optimizer.flat.master, "first": optimizer.first, "second": optimizer.second}


def furthest(ours: FlatOptimizer, theirs: FlatOptimizer, before: dict[str, Tensor], gradient: Tensor) -> float:
    """The largest difference, in units of the last place of the largest number that went into it."""
    mean = torch.maximum(before["first"].abs(), gradient.abs())
    through = {"first": mean, "master": RATE * mean / theirs.second.sqrt(), "second": before["second"]}
    found = []
    for name, one in state(ours).items():
        other = state(theirs)[name]
        size = torch.stack([one.abs(), other.abs(), before[name].abs(), through[name]]).max(0).values
        found.append(float(((one - other).abs() / size / torch.finfo(one.dtype).eps).max()))
    return max(found)


@WIDE
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("factor", [1.0, 0.37])
@pytest.mark.parametrize(("size", "decayed"), [(1000, 640), (1, 1), (1, 0), (64, 64), (333, 1), (4097, 4095)])
def test_one_update_equals_that_of_pytorch_to_the_last_places(dtype, name, factor, size, decayed):
    ours, theirs = both(size, decayed, dtype, **CASES[name])
    before, gradient = {key: value.clone() for key, value in state(ours).items()}, ours.flat.gradient.clone()
    for one in (ours, theirs):
        one.step(RATE, factor)
    assert not torch.equal(ours.flat.master, before["master"]) and ours.updates == theirs.updates == 8
    assert furthest(ours, theirs, before, gradient) <= 4


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 2e-6), (torch.float64, 1e-13)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_many_updates_from_the_start_stay_with_those_of_pytorch(dtype, close, name):
    ours, theirs = both(777, 500, dtype, **CASES[name])
    for one in (ours, theirs):
        one.updates = 0
        one.first.zero_(), one.second.zero_()
    random = torch.Generator().manual_seed(1)
    for number in range(300):
        gradient = torch.randn(777, generator=random, dtype=dtype) * 0.01
        for one in (ours, theirs):
            one.flat.gradient.copy_(gradient)
            one.step(1e-3 / (1 + number / 100), 1.0 if number % 3 else 0.5)
    for name, one in state(ours).items():
        assert float((one - state(theirs)[name]).abs().max()) < close, name


def test_weight_decay_ends_where_it_should():
    ours = made(1000, 601, torch.float64, plain=False)
    ours.flat.gradient.zero_(), ours.first.zero_()
    before = ours.flat.master.clone()
    ours.step(0.5)
    assert torch.equal(ours.flat.master[601:], before[601:])
    torch.testing.assert_close(ours.flat.master[:601], before[:601] * (1 - 0.5 * 0.1), rtol=1e-15, atol=0)


def rows_apart(count: int, part: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[count, part] places in memory full of sevens, whose rows lie 3 x part apart, and that memory."""
    memory = torch.full((count, 3, part), 7.0, dtype=dtype)
    return memory[:, 1], memory


@pytest.mark.parametrize(("wide", "narrow"), [pair for pair in WORKING if pair[1]], ids=str)
@pytest.mark.parametrize(
    ("count", "part", "decayed"), [(5, 64, 100), (1, 999, 500), (7, 13, 91), (3, 1, 0), (4, 64, 128)]
)
@pytest.mark.parametrize("plain", [False, True])
def test_what_the_model_computes_with_is_master_rounded_and_nothing_else_is_touched(
    wide, narrow, count, part, decayed, plain
):
    working, memory = rows_apart(count, part, narrow)
    one = made(count * part, decayed, wide, plain, working)
    alone = made(count * part, decayed, wide, plain)
    one.step(1e-3, 0.5), alone.step(1e-3, 0.5)
    assert torch.equal(one.flat.master, alone.flat.master)
    assert torch.equal(working, one.flat.master.to(narrow).view(count, part))
    assert (memory[:, [0, 2]] == 7.0).all()
    one.flat.master.mul_(3.0)
    one.publish()
    assert torch.equal(working, one.flat.master.to(narrow).view(count, part))


def test_rounding_is_that_of_pytorch_for_every_kind_of_number():
    upper = torch.arange(0, 1 << 16, dtype=torch.int64) << 16
    bits = torch.cat([upper + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    weights = torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)
    working = torch.zeros(1, weights.numel(), dtype=torch.bfloat16)
    one = made(weights.numel(), 0, torch.float32, False, working)
    one.flat.master.copy_(weights)
    one.step(0.0)
    assert torch.equal(one.flat.master.isnan(), weights.isnan())
    torch.testing.assert_close(working[0], weights.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("wide", "narrow"), WORKING, ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("where", ["gradient", "master", "first", "second"])
def test_what_is_not_finite_spreads_as_in_pytorch(wide, narrow, name, where):
    working = [None if narrow is None else torch.zeros(1, 100, dtype=narrow) for _ in range(2)]
    pair = [made(100, 50, wide, plain, rows, **CASES[name]) for plain, rows in zip((False, True), working, strict=True)]
    for one in pair:
        vector = {"gradient": one.flat.gradient, **state(one)}[where]
        vector[[3, 33, 60, 99]] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.nan], dtype=wide)
        one.step(1e-3, 0.5)
    ours, theirs = state(pair[0]), state(pair[1])
    if narrow:
        ours, theirs = ours | {"working": working[0]}, theirs | {"working": working[1]}
    for key, value in ours.items():
        assert torch.equal(value.isnan(), theirs[key].isnan()), key
        assert torch.equal(value.isinf() * value.sign(), theirs[key].isinf() * theirs[key].sign()), key
    assert not ours["master"][[3, 99]].isfinite().any() and ours["master"][:3].isfinite().all()


@WIDE
@pytest.mark.parametrize("plain", [False, True])
def test_a_vector_of_nothing_is_updated_without_ado(dtype, plain):
    one = made(0, 0, dtype, plain, torch.zeros(0, 64, dtype=dtype))
    one.step(1e-3, 0.5)
    assert one.updates == 8


@WIDE
@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(dtype, threads):
    size, kept = 3 * SHARE + 77, torch.get_num_threads()
    results = []
    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            results.append(made(size, SHARE + 5, dtype, False, torch.zeros(1, size, dtype=dtype)))
            results[-1].step(1e-3, 0.5)
    finally:
        torch.set_num_threads(kept)
    one, other = results
    assert torch.equal(one.working, other.working) and torch.equal(one.working[0], one.flat.master)
    assert all(torch.equal(value, state(other)[name]) for name, value in state(one).items())


@pytest.mark.parametrize(
    ("size", "threads", "expected"), [(0, 4, 1), (SHARE, 4, 1), (3 * SHARE, 2, 2), (9 * SHARE, 4, 4)]
)
def test_shares_are_about_equal_cover_everything_and_are_not_small(size, threads, expected):
    found = shares(size, threads)
    assert len(found) == expected and found[0][0] == 0 and found[-1][1] == size
    assert all(end == begin for (_, end), (begin, _) in zip(found, found[1:], strict=False))
    assert all(begin % 64 == 0 and abs(end - begin - size / expected) <= 64 for begin, end in found)


@pytest.mark.parametrize("how", [dict(dtype=2), dict(copy=(0, 1, 1, 1)), dict(copy=(0, 0, 0, 0)), dict(begin=-1)])
def test_the_kernel_refuses_what_it_cannot_do(how):
    words = dict(begin=0, dtype=0, copy=(0, 0, 1, 1)) | how
    numbers = (1.0, 1e-3, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.1)
    with pytest.raises(ValueError, match="no update"):
        _kernel.adam((0, 0, 0, 0), words["begin"], 0, words["dtype"], numbers, False, 0, words["copy"])
