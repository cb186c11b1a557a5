"""The sink for Prometheus: what the file and /metrics say, and what neither a client nor a full disk can do to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import socket
import time

import pytest
from metrics_records import LAYERS, evaluation_record, step_record
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from ryzen_mpi.metrics import prometheus, scrape_server
from ryzen_mpi.metrics.prometheus import PrometheusSink
from ryzen_mpi.metrics.record import SampleRecord
from ryzen_mpi.metrics.signals import SIGNALS, of_kind, prometheus_name

HOSTS = ["node1", "node1", "node2", "node2"]
LABELS = {"run": "a run", "jobid": "17", "node": "node1"}


def sample_record(step: int, ranks: int = 4, **changes) -> SampleRecord:
    values = {signal.name: step + 0.5 for signal in of_kind("sample")}
    rank_values = {signal.name: [step + rank / 8 for rank in range(ranks)] for signal in of_kind("rank_sample")}
    rank_values |= {name: value for name, value in changes.items() if name in rank_values}
    values |= {name: value for name, value in changes.items() if name in values}
    return SampleRecord(step, 1.7e9 + step, values, rank_values)


@pytest.fixture
def make(tmp_path):
    """Makes a sink, which is closed in the end; `said` collects what it reports."""
    with contextlib.ExitStack() as stack:

        def sink(**options) -> PrometheusSink:
            said = options.setdefault("report", [].append).__self__
            made = PrometheusSink(tmp_path / "metrics.prom", LABELS, HOSTS, layers=LAYERS, **options)
            stack.callback(made.close)
            made.said = said
            return made

        yield sink


def get(sink: PrometheusSink, path: str = "/metrics", method: str = "GET", **headers):
    host, _, port = sink.address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.getheader("Content-Type")


def values(text: str, name: str) -> dict[tuple, float]:
    """Of the samples of this name: value by (rank, node) or (layer,), or () where there are no such labels."""
    found = [sample for family in parse(text) for sample in family.samples if sample.name == name]
    assert all(sample.labels["run"] == "a run" and sample.labels["jobid"] == "17" for sample in found)
    keys = ("rank", "node", "layer")
    return {tuple(sample.labels[key] for key in keys if key in sample.labels): sample.value for sample in found}


def written(sink: PrometheusSink, tmp_path) -> str:
    sink.close()
    return (tmp_path / "metrics.prom").read_text()


# -- what is told -----------------------------------------------------------------------------------------------------


def test_every_signal_is_a_gauge_with_the_tables_name_and_description(make, tmp_path):
    sink = make()
    for record in (
        step_record(5, reduce_s=0.25, rank_gradient_norm=(1.0,) * 4),
        evaluation_record(5),
        sample_record(5),
    ):
        sink.write(record)
    families = {family.name: family for family in parse(written(sink, tmp_path))}
    for signal in SIGNALS.values():
        family = families[prometheus_name(signal)]
        assert (family.type, family.documentation) == ("gauge", signal.description)
        ranked = signal.kind in ("rank", "rank_sample")
        assert len(family.samples) == (
            3 if signal.name == "rank_cpu_share" or signal.kind == "layer" else 4 * ranked or 1
        )


def test_ranks_carry_their_node_and_layers_their_name(make, tmp_path):
    sink = make()
    sink.write(step_record(10))
    text = written(sink, tmp_path)
    assert values(text, "ryzen_mpi_step") == {(): 10}
    assert values(text, "ryzen_mpi_rank_rss_bytes") == {
        (str(rank), node): 1e9 + rank for rank, node in enumerate(HOSTS)
    }
    assert values(text, "ryzen_mpi_gradient_variance") == {(layer,): 10 / (i + 1) for i, layer in enumerate(LAYERS)}


def test_the_newest_of_each_kind_is_told_and_variances_of_the_step_they_were_taken_at(make, tmp_path):
    sink = make()
    for record in (step_record(5), sample_record(5), evaluation_record(5), step_record(6), sample_record(6)):
        sink.write(record)
    text = written(sink, tmp_path)
    assert values(text, "ryzen_mpi_step") == {(): 6}
    assert values(text, "ryzen_mpi_stragglers") == {(): 6.5}
    assert values(text, "ryzen_mpi_held_out_loss") == {(): pytest.approx(6 / 5)}
    assert values(text, "ryzen_mpi_gradient_variance")[("head",)] == pytest.approx(5 / 3)
    assert values(text, "ryzen_mpi_last_step_timestamp_seconds") == {(): pytest.approx(1.7e9 + 2)}
    assert values(text, "ryzen_mpi_last_sample_timestamp_seconds") == {(): 1.7e9 + 6}


def test_a_loss_that_is_no_number_is_told_and_what_is_not_known_is_left_out(make, tmp_path):
    sink = make()
    sink.write(step_record(1, loss=math.nan, compression_ratio=math.nan))
    sink.write(sample_record(1, rank_power_w=[math.nan] * 4, rank_clock_hz=[math.nan, 2e9, 2e9, 2e9]))
    text = written(sink, tmp_path)
    assert math.isnan(values(text, "ryzen_mpi_loss")[()])
    assert not values(text, "ryzen_mpi_compression_ratio") and "compression_ratio" not in text
    assert not values(text, "ryzen_mpi_rank_power_watts")
    assert list(values(text, "ryzen_mpi_rank_clock_hertz")) == [("1", "node1"), ("2", "node2"), ("3", "node2")]


def test_counters_miss_no_step_and_never_fall_when_a_rollback_takes_steps_back(make, tmp_path):
    sink = make()
    for step in (1, 2, 3, 2, 3):
        sink.write(step_record(step, skipped=step == 3, loss=math.inf if step == 2 else 1.0, step_s=0.5))
        sink.write(sample_record(step, rank_throttles=[1.0, 0.0, math.nan, 2.0]))
    text = written(sink, tmp_path)
    assert values(text, "ryzen_mpi_attempt_steps_total") == {(): 5}
    assert values(text, "ryzen_mpi_attempt_skipped_steps_total") == {(): 2}
    assert values(text, "ryzen_mpi_attempt_not_finite_steps_total") == {(): 2}
    assert values(text, "ryzen_mpi_attempt_tokens_total") == {(): 3 * 8192}
    assert values(text, "ryzen_mpi_attempt_step_seconds_total") == {(): 2.5}
    throttles = values(text, "ryzen_mpi_attempt_rank_throttles_total")
    assert throttles == {("0", "node1"): 5, ("1", "node1"): 0, ("3", "node2"): 10}


@pytest.mark.parametrize("run", ['"} evil{x="', "a\nb\\", b"\xff".decode(errors="surrogateescape")])
def test_a_hostile_name_of_a_run_stays_the_value_of_a_label(tmp_path, run):
    sink = PrometheusSink(tmp_path / "metrics.prom", {"run": run, "jobid": "1"}, HOSTS, port=0, targets=tmp_path)
    sink.write(step_record(1))
    _, scraped, _ = get(sink)
    sink.close()
    for text in (scraped, (tmp_path / "metrics.prom").read_text()):
        runs = {sample.labels["run"] for family in parse(text) for sample in family.samples}
        assert runs == {run.encode(errors="replace").decode()}


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_says_running_until_close_and_holds_the_last_step_then(make, tmp_path):
    (tmp_path / "metrics.prom").write_text("ryzen_mpi_step 99\n")
    sink = make()
    deadline = time.monotonic() + 60
    while "step 99" in (text := (tmp_path / "metrics.prom").read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert values(text, "ryzen_mpi_running") == {(): 1}  # at once: what another attempt left is gone
    for step in range(1, 50):
        sink.write(step_record(step))
    text = written(sink, tmp_path)
    assert (values(text, "ryzen_mpi_running"), values(text, "ryzen_mpi_step")) == ({(): 0}, {(): 49})
    sink.close()
    assert os.listdir(tmp_path) == ["metrics.prom"]


def test_records_are_written_while_the_run_goes_on_and_not_at_every_step(make, tmp_path, monkeypatch):
    monkeypatch.setattr(prometheus, "WRITE_S", 0.05)
    monkeypatch.setattr(prometheus, "WRITE_SHARE", 1.0)
    sink, inodes, step, text = make(), set(), 0, ""
    deadline = time.monotonic() + 60
    while len(inodes) < 4 and time.monotonic() < deadline:
        step += 1
        sink.write(step_record(step))
        with contextlib.suppress(FileNotFoundError):
            inodes.add((tmp_path / "metrics.prom").stat().st_mtime_ns)
            text = (tmp_path / "metrics.prom").read_text()
            assert text.endswith("\n") and list(parse(text))  # whole whenever it is read
        time.sleep(0.001)
    assert 4 == len(inodes) < step
    assert 1 <= values(text, "ryzen_mpi_step")[()] <= step


def test_a_file_that_cannot_be_written_is_reported_once_and_tried_again(make, tmp_path, monkeypatch):
    monkeypatch.setattr(prometheus, "WRITE_S", 0.01)
    monkeypatch.setattr(prometheus, "WRITE_SHARE", 1.0)
    (tmp_path / "metrics.prom").mkdir()  # as a full disk would, it refuses the rename; root is not refused by rights
    sink = make()
    deadline = time.monotonic() + 60
    while not sink.said and time.monotonic() < deadline:
        sink.write(step_record(1))
        time.sleep(0.01)
    for step in range(2, 20):
        sink.write(step_record(step))
        time.sleep(0.005)
    assert len(sink.said) == 1 and "metrics.prom cannot be written (Is a directory)" in sink.said[0]
    (tmp_path / "metrics.prom").rmdir()
    assert values(written(sink, tmp_path), "ryzen_mpi_step") == {(): 19}
    assert os.listdir(tmp_path) == ["metrics.prom"]


# -- /metrics ---------------------------------------------------------------------------------------------------------


def test_nothing_listens_unless_asked(make):
    assert make().address is None


def test_metrics_are_served_as_prometheus_asks_for_them(make):
    sink = make(port=0)
    assert sink.address.startswith("127.0.0.1:")
    sink.write(step_record(7))
    status, plain, kind = get(sink)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert values(plain, "ryzen_mpi_step") == {(): 7}
    _, text, kind = get(sink, Accept="application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(text)}
    assert families["ryzen_mpi_attempt_steps"].samples[0].value == 1
    for _ in range(2 * scrape_server.MOST_CONNECTIONS):  # one after the other there may be any number
        assert get(sink, method="HEAD")[:2] == (200, "")


def test_no_other_path_is_there(make):
    sink = make(port=0)
    for path in ("/", "/metrics/", "/metrics.prom", "/../metrics.prom", "/%6detrics", "/metrics;a", "*"):
        status, text, _ = get(sink, path)
        assert status == 404 and "ryzen_mpi_" not in text and "metrics.prom" not in text, path


def test_nothing_but_reading_is_answered(make):
    sink = make(port=0)
    assert {get(sink, method=method)[0] for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE")} == {501}


def test_an_ipv6_address_is_served_too(make):
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    sink = make(port=0, address="::1")
    if sink.said:
        pytest.skip(f"no IPv6 loopback here: {sink.said}")
    assert sink.address.startswith("[::1]:") and get(sink)[0] == 200


def test_what_is_served_on_all_addresses_is_told_by_the_nodes_name(make):
    assert make(port=0, address="0.0.0.0").address.startswith("node1:")


@pytest.mark.parametrize("address, reason", [("127.0.0.1", "in use"), ("203.0.113.1", "assign")])
def test_a_port_that_cannot_be_had_is_reported_once_and_the_file_written(make, tmp_path, address, reason):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sink = make(port=port, address=address, targets=tmp_path / "targets")
        sink.write(step_record(1))
        text = written(sink, tmp_path)
    assert len(sink.said) == 1 and f"port {port} at {address}" in sink.said[0] and reason in sink.said[0]
    assert sink.address is None and not (tmp_path / "targets").exists()
    assert values(text, "ryzen_mpi_step") == {(): 1}


def test_clients_that_say_nothing_hold_up_neither_training_nor_its_end(make, tmp_path, monkeypatch):
    monkeypatch.setattr(scrape_server._Handler, "timeout", 1000.0)
    sink = make(port=0)
    host, _, port = sink.address.rpartition(":")
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((host, int(port))))
            for _ in range(scrape_server.MOST_CONNECTIONS)
        ]
        refused = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        assert refused.recv(1) == b""  # closed unanswered: there are as many as may be
        sink.write(step_record(3))
        assert values(written(sink, tmp_path), "ryzen_mpi_step") == {(): 3}  # they are still there
        assert all(each.fileno() >= 0 for each in silent)


def test_clients_that_say_nothing_are_sent_away(make, monkeypatch):
    assert 0 < scrape_server._Handler.timeout <= 10
    monkeypatch.setattr(scrape_server._Handler, "timeout", 0.1)
    sink = make(port=0)
    host, _, port = sink.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as silent:
        silent.sendall(b"GET /metr")
        assert silent.recv(1) == b""
    assert get(sink)[0] == 200


# -- the file that tells where ----------------------------------------------------------------------------------------


def test_a_run_is_found_while_it_is_served(make, tmp_path):
    folder = tmp_path / "targets"
    sink = make(port=0, targets=folder)
    entry = {"targets": [sink.address], "labels": {"run": "a run", "jobid": "17"}}
    assert json.loads((folder / "a run.json").read_text()) == [entry]
    assert os.listdir(folder) == ["a run.json"]
    sink.close()
    assert os.listdir(folder) == []


def test_what_a_killed_run_left_is_replaced_and_only_ones_own_is_removed(make, tmp_path):
    folder = tmp_path / "targets"
    folder.mkdir()
    (folder / "a run.json").write_text("[]")
    first = make(port=0, targets=folder)
    assert first.address in (folder / "a run.json").read_text()
    second = make(port=0, targets=folder)  # goes on with the run on another node, say
    first.close()
    assert second.address in (folder / "a run.json").read_text()


def test_a_folder_that_cannot_be_written_is_reported_once_and_metrics_are_served(make, tmp_path):
    (tmp_path / "targets").write_text("no folder")
    sink = make(port=0, targets=tmp_path / "targets")
    assert len(sink.said) == 1 and "a run.json cannot be written" in sink.said[0]
    assert get(sink)[0] == 200
