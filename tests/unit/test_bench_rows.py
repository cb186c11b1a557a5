"""From timed calls to the figures of a row: OSU's statistics, ours, and bus bandwidth."""

from __future__ import annotations

import numpy as np
import pytest

from ryzen_mpi.bench.compare import Target, allowance, compare
from ryzen_mpi.bench.measure import Samples, measure, round_bounds
from ryzen_mpi.bench.memory import last_level_cache, rotation
from ryzen_mpi.bench.prepared import Prepared, shape, shares
from ryzen_mpi.bench.rows import bus_factor, collective_row, message_row, percentile, tail


def samples(times_us, rounds=1, waited=0.0, others=0.0) -> Samples:
    times = (np.atleast_2d(times_us) * 1000).astype(np.int64)
    bounds = round_bounds(times.shape[1], rounds)
    shares_waited = np.broadcast_to(waited, len(bounds) - 1).astype(float)
    return Samples(times, bounds, shares_waited, float(shares_waited.max()), others)


@pytest.mark.parametrize(
    ("operation", "ranks", "factor"),
    [
        ("all_reduce", 2, 1.0),
        ("all_reduce", 4, 1.5),
        ("ring_all_reduce", 4, 1.5),
        ("all_gather", 4, 0.75),
        ("reduce_scatter", 4, 0.75),
        ("all_to_all", 4, 0.75),
        ("broadcast", 4, 1.0),
    ],
)
def test_bus_bandwidth_is_nccl_tests_convention(operation, ranks, factor):
    assert bus_factor(operation, ranks) == factor


def test_the_bytes_of_bus_bandwidth_are_the_whole_vectors():
    assert shape("all_reduce", 100, 4, 4).total_bytes == 400
    assert shape("reduce_scatter", 100, 4, 4).total_bytes == 400
    assert shape("all_gather", 100, 4, 4).total_bytes == 1600
    assert shape("all_to_all", 100, 4, 4).total_bytes == 1600
    assert shares(10, 4) == [3, 3, 2, 2]


def test_a_row_has_osus_average_over_ranks_and_our_median_of_the_slowest():
    row = collective_row("raw", 8000, samples([[1, 5, 2, 9], [3, 1, 2, 1]]), samples([[2, 2], [2, 2]]), 8000, 1.5)
    assert (row.average_us, row.minimum_us, row.maximum_us) == (3.0, 1.75, 4.25)  # of the means 4.25 and 1.75
    assert row.p50_us == 4.0 and row.p99_us == 9.0  # slowest: 3, 5, 2, 9
    assert row.bus_gb_s == pytest.approx(8000 / 4e-6 * 1.5 / 1e9)
    assert row.times_memcpy == 2.0 and row.iterations == 4
    assert row.disturbed is False and row.unavailable is None


def test_a_row_is_disturbed_when_ranks_waited_or_others_ran():
    times = [[1.0, 2.0]]
    assert collective_row("raw", 8, samples(times, waited=0.021), None, 8, 1).disturbed is True
    assert collective_row("raw", 8, samples(times, others=0.11), None, 8, 1).disturbed is True
    assert collective_row("raw", 8, samples(times, waited=0.019, others=0.09), None, 8, 1).disturbed is False
    unknown = collective_row("raw", 8, samples(times, waited=np.nan, others=np.nan), None, 8, 1)
    assert unknown.disturbed is None and np.isnan(unknown.times_memcpy)


def test_percentiles_are_osus():
    values = list(range(1, 11))
    assert [tail(values, percent) for percent in (1, 50, 90, 99)] == [1, 5, 9, 9]
    assert percentile(np.array(values), 99) == 10 and percentile(np.array(values), 50) == 5
    row = collective_row("raw", 8, samples([[1, 2, 3, 4], [3, 4, 5, 6]]), None, 8, 1, (50, 99))
    assert row.percentiles == {"50": 3.0, "99": 4.0}  # over ranks' means 2, 3, 4, 5


def test_a_latency_is_half_a_round_trip_on_rank_0():
    row = message_row("raw", 1000, samples([[4, 6, 8], [90, 90, 90]]), samples([[1, 1, 1]]), "latency")
    assert (row.average_us, row.p50_us, row.p99_us, row.times_memcpy) == (3.0, 3.0, 4.0, 3.0)
    assert row.bus_gb_s == pytest.approx(1000 / 3e-6 / 1e9)


@pytest.mark.parametrize(("operation", "times"), [("bw", 1), ("bibw", 2)])
def test_a_bandwidth_counts_all_messages_of_the_window(operation, times):
    row = message_row("raw", 1000, samples([[64, 192], [1, 1]]), None, operation, (50,))
    assert row.bandwidth_mb_s == pytest.approx(500 * times)  # 2 windows of 64 kB in 256 us
    assert row.percentiles["50"] == pytest.approx(times * 1000 * 64 / 192)


@pytest.mark.parametrize(("iterations", "rounds"), [(1, 20), (7, 20), (20, 20), (45, 20), (1000, 20)])
def test_rounds_hold_every_iteration_and_none_is_empty(iterations, rounds):
    bounds = round_bounds(iterations, rounds)
    assert bounds[0] == 0 and bounds[-1] == iterations and len(bounds) - 1 == min(rounds, iterations)
    assert min(np.diff(bounds)) >= 1


def test_a_ratio_is_of_the_rounds_in_which_nothing_disturbed_either_side():
    slow = samples([np.repeat([2.0, 20.0], 10)], 20, np.repeat([0.0, 0.5], 10))
    fast = samples([np.ones(20)], 20)
    found = compare(slow, fast)
    assert (found.figure.value, found.figure.n, found.quiet, found.rounds) == (2.0, 10, 10, 20)
    assert compare(slow, fast, "excess_us").figure.value == 1.0
    assert allowance(slow, fast, 1.0, 1.0).figure.value == 1.0


def test_what_was_disturbed_has_no_figure():
    fast = samples([np.ones(20)], 20)
    assert compare(samples([np.ones(20)], 20, np.repeat([0.5, 0.0], [15, 5])), fast).figure is None
    assert compare(samples([np.ones(20)], 20, others=0.5), fast).figure is None


def test_a_verdict_says_on_how_many_sizes_it_rests():
    def found(value, waited=0.0):
        return compare(samples([np.full(20, value)], 20, waited), samples([np.ones(20)], 20))

    target = Target("a", "b", 10.0, least=True)
    assert target.judged({1: found(11), 2: found(12)})["verdict"] == "reached"
    assert target.judged({1: found(11), 2: found(9)})["verdict"] == "not reached"
    partly = target.judged({1: found(11), 2: found(9, waited=0.5)})
    assert partly["verdict"] == "reached (1 of 2 sizes, the others were disturbed)"
    assert [item["value"] for item in partly["figures"]] == [11, None]
    assert target.judged({1: found(11, waited=0.5)})["verdict"] == "not measured: disturbed"
    assert Target("a", "b", 0.6, least=False).judged({1: found(0.5)})["verdict"] == "reached"


def test_memory_rotates_beyond_the_cache_within_the_limit():
    assert rotation(1 << 20, 32 << 20, 1 << 30) == 64
    assert rotation(16 << 20, 32 << 20, 1 << 30) == 4
    assert rotation(256 << 20, 32 << 20, 1 << 30) == 1
    assert rotation(16 << 20, 32 << 20, 33 << 20) == 2
    assert rotation(16 << 20, 32 << 20, 1 << 20) == 0
    assert rotation(4, 32 << 20, 1 << 30) == 64 and rotation(0, 32 << 20, 1 << 30) == 1


def test_the_last_cache_is_the_largest(tmp_path):
    for number, text in enumerate(["32K\n", "2048K\n", "96M\n"]):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(text)
    assert last_level_cache(tmp_path) == (96 << 20, "sysfs")
    assert last_level_cache(tmp_path / "none")[1].startswith("assumed")


class Done:
    """A request that has ended."""

    def Test(self):
        return True


class Solo:
    """A communicator of one rank, enough for the loop."""

    size = 1

    barriers = 0

    def Barrier(self):
        self.barriers += 1

    def Ibarrier(self):
        self.Barrier()
        return Done()

    def Allgather(self, mine, everyone):
        everyone.reshape(-1)[...] = np.asarray(mine).reshape(-1)

    def Iallgather(self, mine, everyone):
        self.Allgather(mine, everyone)
        return Done()

    def Iallgatherv(self, mine, everyone):
        everyone[0][...] = mine
        return Done()


def test_sides_take_turns_and_cycle_through_their_memory():
    seen = []
    sides = {
        "a": Prepared([lambda i=i: seen.append(("a", i)) for i in range(3)]),
        "b": Prepared([lambda: seen.append(("b", 0))]),
    }
    solo = Solo()
    found = measure(solo, sides, iterations=40, warmup=4)
    assert found["a"].times_ns.shape == (1, 40) and (found["a"].times_ns > 0).all()
    turns = [name for name, _ in seen[8:]]  # after the warm-up
    assert turns[:12] == ["a"] * 3 + ["b"] * 6 + ["a"] * 3  # one call untimed and two timed a turn; b begins next
    memory = [number for name, number in seen if name == "a"]
    assert memory == [i % 3 for i in range(len(memory))] and len(memory) == 4 + 40 + 20
    assert solo.barriers == 2 * (40 + 2 * 20)  # ranks meet before every timed call and around a turn
