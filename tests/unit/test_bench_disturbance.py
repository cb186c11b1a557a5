"""Whether something else ran where a measurement did."""

from __future__ import annotations

import pytest

from ryzen_mpi.bench.disturbance import Others, is_disturbed, others_share, waited_share
from ryzen_mpi.cluster.kernel import read_threads

SECOND = 10**9


def test_the_kernel_tells_of_every_thread_of_this_process(tmp_path):
    for name, text in (("7", "100 20 3\n"), ("8", "5 6 1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text)
    (tmp_path / "9").mkdir()  # a thread that ended meanwhile
    assert read_threads(tmp_path) == {"7": (100, 20), "8": (5, 6)}
    (tmp_path / "7" / "schedstat").write_text("\n")  # a kernel without the statistics
    assert read_threads(tmp_path) is None
    assert read_threads() is None or len(read_threads()) >= 1


def test_waiting_for_a_foreign_process_counts():
    assert waited_share({"1": (0, 0)}, {"1": (SECOND // 2, SECOND // 4)}, SECOND) == 0.25


def test_waiting_for_ones_own_threads_does_not():
    before = {"1": (0, 0), "2": (0, 0)}
    assert waited_share(before, {"1": (SECOND // 2, SECOND // 4), "2": (SECOND // 4, 0)}, SECOND) == 0
    assert waited_share(before, {"1": (0, 0), "2": (0, SECOND // 2)}, SECOND) == 0.5


def test_what_is_not_known_is_not_quiet_by_accident():
    assert is_disturbed(waited_share(None, {"1": (0, 0)}, SECOND)) is None
    assert is_disturbed(float("nan"), 0.5) is True and is_disturbed(0.0, float("nan")) is False
    assert is_disturbed(0.0201) is True and is_disturbed(0.0199) is False and is_disturbed(0.0, 0.11) is True


def test_a_wait_that_began_before_is_not_more_than_all():
    assert waited_share({"1": (0, 0)}, {"1": (0, 5 * SECOND)}, SECOND) == 1.0


@pytest.mark.parametrize(
    ("reports", "share"),
    [
        ([[1.0, {"0": 1.0}, 1.0]], 0.0),
        ([[1.0, {"0": 1.0}, 0.4]], 0.6),
        # two ranks that may run on both cores tell of both: counted once
        ([[1.0, {"0": 1.0, "1": 0.5}, 0.5], [1.0, {"0": 1.0, "1": 0.5}, 0.5]], 0.25),
        ([[1.0, {"0": 1.0}, 1.0], [1.0, {"1": 1.0}, 0.5]], 0.25),
    ],
)
def test_others_are_what_no_rank_of_the_node_used(reports, share):
    assert others_share(reports) == pytest.approx(share)


def test_of_a_short_time_or_without_the_kernels_word_nothing_is_told():
    assert others_share([[0.01, {"0": 1.0}, 0.0]]) != others_share([[0.01, {"0": 1.0}, 0.0]])
    assert is_disturbed(float("nan"), others_share([[1.0, None, 0.0]])) is None


def test_interrupts_and_the_network_count_for_nobody(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu 9 9 9 9 9 9 9 9\n" + "".join(f"cpu{i} 100 0 0 50 0 0 0 0 0 0\n" for i in range(256)))
    others = Others(stat)
    stat.write_text("".join(f"cpu{i} 110 2 3 50 0 500 700 5 0 0\n" for i in range(256)))
    _, cores, _ = others.report()
    assert cores and all(busy == pytest.approx(20 / 100) for busy in cores.values())
