"""What a person may ask a benchmark for, and how a mistake is answered."""

from __future__ import annotations

import pytest

from ryzen_mpi.bench.catalog import BENCHMARKS, find
from ryzen_mpi.bench.options import (
    BACKENDS,
    DATATYPES,
    parse,
    parse_backends,
    parse_datatype,
    parse_percentiles,
    parse_size,
    parse_sizes,
)
from ryzen_mpi.errors import UserError

ALLREDUCE = BENCHMARKS["osu_allreduce"]


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("4096", 4096), ("64K", 65536), ("1m", 1 << 20), ("2MiB", 2 << 20), ("1GB", 1 << 30)]
)
def test_a_size_may_have_a_binary_prefix(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (None, (4, 1024)),
        ("64", (4, 64)),
        ("2", (2, 2)),
        ("8:", (8, 1024)),
        ("1M:", (1 << 20, 1 << 20)),
        (":64", (4, 64)),
        ("8:64K", (8, 65536)),
        ("16:16", (16, 16)),
    ],
)
def test_m_is_osus(text, sizes):
    assert parse_sizes(text, (4, 1024)) == sizes


@pytest.mark.parametrize("text", ["", "x", "8:4", "4:8:16", "-4:8", "4.5", "0:0", "0", "4T"])
def test_a_wrong_m_is_refused_with_what_is_allowed(text):
    with pytest.raises(UserError) as error:
        parse_sizes(text, (4, 1024))
    assert error.value.hint


def test_sizes_double_up_to_the_largest():
    assert parse(ALLREDUCE, sizes="12:100").sizes() == [12, 24, 48, 96]
    assert parse(ALLREDUCE, sizes="8:8").sizes() == [8]
    assert parse(BENCHMARKS["osu_barrier"]).sizes() == [0]
    assert parse(ALLREDUCE, datatype="double").sizes()[0] == 8


@pytest.mark.parametrize("text", ["0", "100", "a", "50,,99", "1,2,3,4,5,6", "-5", ""])
def test_wrong_percentiles_are_refused(text):
    with pytest.raises(UserError, match="no percentiles"):
        parse_percentiles(text)


def test_percentiles_are_whole_numbers():
    assert parse_percentiles("50,90,99") == (50, 90, 99) and parse_percentiles(None) == ()


def test_backends_are_one_all_or_some():
    assert parse_backends("all") == BACKENDS
    assert parse_backends("gloo,raw,gloo") == ("gloo", "raw")
    with pytest.raises(UserError, match="nccl") as error:
        parse_backends("raw,nccl")
    assert all(name in error.value.hint for name in BACKENDS)


@pytest.mark.parametrize(("text", "name"), [("float", "float"), ("mpi_float", "float"), ("FLOAT32", "float")])
def test_a_datatype_has_the_names_of_c_mpi_and_pytorch(text, name):
    assert parse_datatype(text) is DATATYPES[name]


def test_a_wrong_datatype_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="complex") as error:
        parse_datatype("complex")
    assert "bfloat16" in error.value.hint


@pytest.mark.parametrize("words", [{"iterations": 0}, {"warmup": -1}, {"memory": "much"}])
def test_what_makes_no_sense_is_refused(words):
    with pytest.raises(UserError):
        parse(ALLREDUCE, **words)


@pytest.mark.parametrize("words", [{"sizes": "4:8"}, {"datatype": "float"}])
def test_a_barrier_has_no_size_and_no_type(words):
    with pytest.raises(UserError, match="barrier"):
        parse(BENCHMARKS["osu_barrier"], **words)


def test_a_mistyped_name_is_answered_with_the_nearest():
    with pytest.raises(UserError) as error:
        find("osu_alreduce")
    assert "did you mean osu_allreduce?" in error.value.hint
    with pytest.raises(UserError):
        find("qqqqq")


def test_iterations_are_osus_unless_given():
    assert ALLREDUCE.iterations(8192, None, None) == (1000, 100)
    assert ALLREDUCE.iterations(8193, None, None) == (100, 10)
    assert BENCHMARKS["osu_latency"].iterations(4, None, None) == (10000, 100)
    assert BENCHMARKS["osu_bw"].iterations(1 << 20, None, None) == (20, 2)
    assert ALLREDUCE.iterations(1 << 20, 7, 0) == (7, 0)
