"""The table of signals: names that are distinct and well formed, in the files and at Prometheus."""

from __future__ import annotations

import re
from pathlib import Path

from ryzen_mpi.metrics import signals_page
from ryzen_mpi.metrics.signals import RANKED, SIGNALS, prometheus_name

BASE_UNITS = {
    "s": "_seconds",
    "B": "_bytes",
    "B/s": "_bytes_per_second",
    "1/s": "_per_second",
    "Hz": "_hertz",
    "°C": "_celsius",
    "W": "_watts",
}


def test_names_tell_whether_there_is_a_value_a_rank():
    for signal in SIGNALS.values():
        assert signal.name.startswith("rank_") == (signal.kind in RANKED), signal.name
        assert signal.description and signal.unit, signal.name


def test_prometheus_names_are_valid_distinct_and_end_in_their_base_unit():
    names = {prometheus_name(signal): signal for signal in SIGNALS.values()}
    assert len(names) == len(SIGNALS)
    for name, signal in names.items():
        assert re.fullmatch(r"ryzen_mpi_[a-z][a-z0-9_]*", name)
        suffixes = [suffix for suffix in BASE_UNITS.values() if name.endswith(suffix)]
        assert max(suffixes, key=len, default=None) == BASE_UNITS.get(signal.unit), name
        assert not re.search(r"_(s|hz|c|w)_|(_bytes){2}", name), name


def test_prometheus_names_keep_ranks_apart_from_all():
    assert prometheus_name(SIGNALS["step_s"]) == "ryzen_mpi_step_seconds"
    assert prometheus_name(SIGNALS["rank_step_s"]) == "ryzen_mpi_rank_step_seconds"
    assert prometheus_name(SIGNALS["rank_temperature_c"]) == "ryzen_mpi_rank_temperature_celsius"
    assert prometheus_name(SIGNALS["network_bytes"]) == "ryzen_mpi_network_bytes"
    assert prometheus_name(SIGNALS["loss"]) == "ryzen_mpi_loss"


def test_docs_are_as_the_table():
    found = Path(__file__).parents[2] / "docs" / "signals.md"
    made = "python -m ryzen_mpi.metrics.signals_page > docs/signals.md"
    assert found.read_text() == signals_page.page(), f"the table of signals has changed: run `{made}`"
    for name, signal in SIGNALS.items():
        line = f"| `{signal.group}/{name}` | {signal.unit} | {signal.kind} | {signal.description} |"
        assert line in found.read_text(), f"{name} has no line in docs/signals.md"
