"""The planted sensors that launches are heated with: a rank's gauges follow them up and down."""

from __future__ import annotations

import math
import time

import pytest
from sensor_tree import COOL_C, FAST_KHZ, HOT_C, SLOW_KHZ, SensorTree

from ryzen_mpi.cluster.gauges import NAMES, Gauges


@pytest.fixture
def tree(tmp_path):
    return SensorTree(tmp_path, cpus=2)


@pytest.fixture
def look(tree):
    """Gives the values of a look that began after the call."""
    gauges = Gauges(0.01, heat=tree.root, cpus=[0, 1])
    gauges.start()

    def look() -> dict[str, float]:
        wanted, latest = gauges.taken + 2, time.monotonic() + 30
        while gauges.taken < wanted:
            assert time.monotonic() < latest
            time.sleep(0.005)
        return dict(zip(NAMES, gauges.newest(), strict=True))

    yield look
    gauges.close()


def test_a_tree_is_hot_and_slow_while_it_throttles_and_cool_afterwards(tree, look):
    before = look()
    assert (before["temperature_c"], before["clock_hz"], before["throttles"]) == (COOL_C, FAST_KHZ * 1e3, 0)
    with tree.throttling(every_s=0.02):
        hot = look()
        assert (hot["temperature_c"], hot["clock_hz"]) == (HOT_C, SLOW_KHZ * 1e3) and hot["throttles"] >= 2
        events = tree.events
        while tree.events == events:
            time.sleep(0.01)
        assert look()["throttles"] >= 2  # it goes on
    look()
    after = look()
    assert (after["temperature_c"], after["clock_hz"], after["throttles"]) == (COOL_C, FAST_KHZ * 1e3, 0)


def test_heat_without_a_count_and_the_rest_of_the_machine_as_it_is(tree, look):
    tree.heat(96.5)
    seen = look()
    assert (seen["temperature_c"], seen["throttles"]) == (96.5, 0)
    assert seen["memory_limit_bytes"] > 0 and not math.isnan(seen["shared_bytes"])
