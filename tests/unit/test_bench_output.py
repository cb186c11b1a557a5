"""Tables that OSU's parsers read: names, order and widths are those of OSU's C code."""

from __future__ import annotations

import numpy as np
import pytest

from ryzen_mpi.bench.catalog import BENCHMARKS
from ryzen_mpi.bench.options import parse
from ryzen_mpi.bench.output import OsuTable, disturbed_mark, pairs_lines
from ryzen_mpi.bench.pairs import Matrix, Pairs
from ryzen_mpi.bench.rows import Row

ROW = Row(
    *("raw", 4096, 1000, 20.184, 19.5, 21.0),
    p50_us=20.126,
    p99_us=35.0,
    bus_gb_s=0.2034,
    times_memcpy=3.456,
    waited_share=0.001,
    others_share=0.01,
    disturbed=False,
    valid=True,
    percentiles={"50": 20.0, "99": 34.999},
)
# from osu_allreduce 7.5 and osu_bw 7.5 as people keep them, and osu_allreduce -f -c -z50,99 by its source's formats
OSU_ALLREDUCE = ["# Size       Avg Latency(us)", "4096                   20.18"]
OSU_FULL = [
    "# Size       Avg Latency(us)   Min Latency(us)   Max Latency(us)  Iterations        Validation"
    "  P50 Tail Lat(us)  P99 Tail Lat(us)",
    "4096                   20.18             19.50             21.00        1000              Pass"
    "             20.00             35.00",
]
OSU_BW = ["# Size      Bandwidth (MB/s)", "4096                10025.73"]


def table(name: str, **words: object) -> OsuTable:
    benchmark = BENCHMARKS[name]
    return OsuTable(benchmark, parse(benchmark, **words))


def head(lines: OsuTable) -> list[str]:
    return list(lines.head("raw"))


def test_the_head_is_osus_under_a_line_with_the_backend():
    assert head(table("osu_allreduce"))[:-1] == [
        *("", "# backend: raw", "# OSU MPI Allreduce Latency Test", "# Datatype: MPI_FLOAT.")
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [({}, OSU_ALLREDUCE), ({"full": True, "validate": True, "percentiles": "50,99"}, OSU_FULL)],
    ids=["plain", "full"],
)
def test_osus_columns_come_first_in_osus_widths(words, expected):
    lines = table("osu_allreduce", **words)
    for ours, osus in zip((head(lines)[-1], lines.line(ROW)), expected, strict=True):
        assert ours.startswith(osus) and ours[len(osus)] == " "


def test_our_columns_follow():
    lines = table("osu_allreduce")
    assert head(lines)[-1].split()[4:] == ["p50(us)", "p99(us)", "Bus(GB/s)", "x_memcpy", "Disturbed"]
    assert lines.line(ROW).split()[2:] == ["20.13", "35.00", "0.203", "3.46", "no"]
    assert len(head(lines)[-1]) == len(lines.line(ROW))


def test_a_bandwidth_has_osus_column():
    lines = table("osu_bw")
    row = Row("raw", 4096, bandwidth_mb_s=10025.731, p50_us=1.0, p99_us=2.0, disturbed=False)
    assert head(lines)[-1].startswith(OSU_BW[0]) and lines.line(row).startswith(OSU_BW[1])


def test_a_barrier_has_no_size():
    lines = table("osu_barrier")
    assert head(lines)[:4] == ["", "# backend: raw", "# OSU MPI Barrier Latency Test", head(lines)[-1]]
    assert head(lines)[-1].startswith("# Avg Latency(us) ")
    assert lines.line(Row("raw", average_us=1.234, p50_us=1, p99_us=2))[:17] == "             1.23"


def test_a_parser_that_takes_the_first_columns_of_lines_without_a_hash_reads_the_table():
    lines = table("osu_allreduce", full=True)
    rows = [ROW, Row("raw", 8, unavailable="no such\nthing")]
    text = [*head(lines), *map(lines.line, rows), *lines.foot((32 << 20, "sysfs"), 2, 1)]
    found = [line.split() for line in text if line and not line.startswith("#")]
    assert [(int(words[0]), float(words[1])) for words in found] == [(4096, 20.18)]
    assert "# 8: not available: no such thing" in text


@pytest.mark.parametrize(
    ("disturbed", "waited", "others", "mark"),
    [
        (False, 0.01, 0.05, "no"),
        (True, 0.072, 0.05, "wait:7.2%"),
        (True, 0.001, 0.35, "others:35%"),
        (True, float("nan"), 0.35, "others:35%"),
        (None, float("nan"), float("nan"), "unknown"),
    ],
)
def test_a_disturbed_row_is_marked_with_what_disturbed_it(disturbed, waited, others, mark):
    assert disturbed_mark(disturbed, waited, others) == mark


def test_a_bfloat16_table_says_so():
    assert "# Datatype: bfloat16." in head(table("osu_allreduce", datatype="bfloat16"))


def test_pairs_are_mpigraphs_tables():
    benchmark = BENCHMARKS["all_pairs"]
    values = np.array([[np.nan, 100.0], [50.0, np.nan]])
    matrix = Matrix(values / 100, values, values.T.copy(), [("bandwidth at distance 1", 0.5, 0.0)], True)
    options = parse(benchmark, iterations=7, validate=True)
    lines = list(pairs_lines(Pairs(benchmark, options, ["a", "b"], {"raw": matrix}, {"arena": "it has none"})))
    assert lines[1:7] == ["# backend: raw", lines[2], "MsgSize\t1048576", "Times\t7", "Window\t64", "Procs\t2"]
    assert lines[2].startswith("START mpiGraph")
    start = lines.index("Send\ta:0\tb:1\t")
    assert lines[start + 1 : start + 3] == ["a:0 to\t0.000\t100.000\t", "b:1 to\t50.000\t0.000\t"]
    assert "Recv\ta:0\tb:1\t" in lines and "b:1 from\t100.000\t0.000\t" in lines
    assert {"Send max\t100.000000", "Send avg\t75.000000", "Send MB/sec min:\t50.000000"} <= set(lines)
    assert "# disturbed: bandwidth at distance 1: wait:50.0%" in lines and "# Validation: Pass" in lines
    assert lines[-4:] == ["", "# backend: arena", "# mpiGraph", "# not available: it has none"]
    assert lines[-5] == "END mpiGraph"
