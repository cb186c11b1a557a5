"""Every query of every dashboard, asked of a real Prometheus that scraped a real run.

What this machine and a run on one node cannot tell (power, heat, traffic between nodes, gates) comes from a second run:
figures that the test makes, through the same sink, its metrics.prom and a real node-exporter.
"""

from __future__ import annotations

import contextlib
import glob
import json
import signal
import threading
from types import SimpleNamespace

import pytest
import yaml
from launch import Job, metrics, mpirun, overrides, planted
from scraped import MONITORING, Prometheus

from ryzen_mpi.metrics import prometheus as sink_module
from ryzen_mpi.metrics.prometheus import PrometheusSink
from ryzen_mpi.metrics.record import EvaluationRecord, SampleRecord, StepRecord
from ryzen_mpi.metrics.signals import SIGNALS, of_kind, prometheus_name
from ryzen_mpi.validation.gate import Row, Verdict
from ryzen_mpi.validation.gate_metrics import write_gate_metrics

HOSTS = ["node1", "node1", "node2", "node2"]
NOT_HERE = {
    *("compression_ratio", "rank_sent_bytes"),  # between nodes
    *("check_latency_s", "check_bandwidth", "check_ring"),  # too seldom for a run of seconds
    *("sync_accuracy",),  # the same
    *("rank_clock_hz", "rank_temperature_c", "rank_throttles", "rank_power_w"),  # not on every machine
    *("rank_cpu_pressure", "rank_memory_pressure", "rank_io_pressure"),
    *("rank_numa_used_bytes", "rank_numa_free_bytes"),
    *("rank_memory_available_bytes", "rank_memory_limit_bytes"),
}
"""Signals that the real run need not have."""


class Made(threading.Thread):
    """A run of two nodes whose every signal has a value, one step after the other until it is ended."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.sink = PrometheusSink(path, {"run": "made", "jobid": "7"}, HOSTS, layers=["head"])
        self.ended = threading.Event()

    def run(self):
        step = 0
        while not self.ended.wait(0.2):
            step += 1
            for record in records(step):
                self.sink.write(record)

    def close(self):
        self.ended.set()
        self.join()
        self.sink.close()


def records(step: int):
    ranks = [float(step)] * 4
    fields = {name: 1.0 for name in StepRecord.__slots__ if not name.startswith("rank_")}
    fields |= {name: ranks for name in StepRecord.__slots__ if name.startswith("rank_")}
    fields |= {"step": step, "skipped": False, "gradient_variance": [0.5], "rank_communication_s": [0.25] * 4}
    yield StepRecord(**fields)
    yield EvaluationRecord(step, 1.0, 0.5)
    values = {each.name: 1.0 for each in of_kind("sample")}
    yield SampleRecord(step, 1.0, values, {each.name: ranks for each in of_kind("rank_sample")})


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Prometheus, a job that trains and serves, the folder of its run, and a gate's verdict beside a made run."""
    folder = tmp_path_factory.mktemp("scene")
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sink_module, "WRITE_S", 0.5)
        patch.setattr(sink_module, "WRITE_SHARE", 1.0)
        prometheus = stack.enter_context(contextlib.closing(Prometheus(folder)))
        words = overrides(training__max_steps=100000, training__eval_interval=20, monitor__sample_s=0.5)
        serving = ["monitor.prometheus_port=0", f"monitor.prometheus_targets={prometheus.targets}"]
        job = Job(mpirun(2, *planted(folder / "real", *words, *serving)), folder, PLANTED="sleep:0.05")
        stack.callback(job.kill)
        made = stack.enter_context(contextlib.closing(Made(prometheus.textfiles / "metrics.prom")))
        made.start()
        slow = Row("speed", "rate", ">= 1", "s", "not met", "NO-GO", value=0.5, unit="1")
        write_gate_metrics(Verdict("2a", "sound", "NO-GO", (), (slow,)), prometheus.textfiles / "gate-2a.prom")
        job.wait_for((prometheus.targets / "real.json").exists)
        yield SimpleNamespace(prometheus=prometheus, job=job, run=folder / "real")


def queries() -> dict[str, str]:
    """Every expression of every dashboard, and the names of its panel and dashboard."""
    found = {}
    for path in sorted((MONITORING / "grafana/dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                found[target["expr"].replace("$__rate_interval", "30s")] = f"{dashboard['title']}, {panel['title']}"
    return found


def test_no_query_of_a_dashboard_returns_nothing(scene):
    asked = {}
    for expr, panel in queries().items():
        for run in ("real", "made") if "$run" in expr else ("",):
            asked[expr.replace("$run", run)] = panel
    may_lack = {prometheus_name(SIGNALS[name]).removeprefix("ryzen_mpi_") for name in NOT_HERE}
    may_lack.add("node:ryzen_mpi_memory_available:ratio")

    def empty() -> list[str]:
        missing = [expr for expr in asked if not scene.prometheus.query(expr)]
        return [e for e in missing if '"real"' not in e or not any(name in e for name in may_lack)]

    assert len(asked) > 100
    scene.prometheus.wait_for(lambda: scene.prometheus.query('run:ryzen_mpi_tokens:rate5m{run="real"}'))
    try:
        scene.prometheus.wait_for(lambda: not empty(), 30)
    except AssertionError:
        pytest.fail("these return nothing:\n" + "\n".join(f"{asked[expr]}: {expr}" for expr in empty()))


def test_rules_and_alerts_work_on_what_was_scraped(scene):
    def rules() -> list[dict]:
        return [rule for group in scene.prometheus.api("rules")["groups"] for rule in group["rules"]]

    scene.prometheus.wait_for(lambda: all(rule["health"] != "unknown" for rule in rules()))
    assert [(rule["name"], rule.get("lastError")) for rule in rules() if rule["health"] != "ok"] == []
    recorded = {rule["name"] for rule in rules() if rule["type"] == "recording"}
    scene.prometheus.wait_for(lambda: all(scene.prometheus.query(name) for name in recorded))
    assert scene.prometheus.query('ALERTS{alertstate="firing", run="real"}') == []  # it is healthy
    targets = scene.prometheus.api("targets")["activeTargets"]
    assert {target["labels"]["job"]: target["health"] for target in targets} == {
        "ryzen_mpi": "up",
        "ryzen_mpi_textfile": "up",
    }


def test_what_was_scraped_is_what_the_run_says_of_itself(scene):
    shown = scene.prometheus.query('ryzen_mpi_rank_rss_bytes{run="real"}')
    assert [series["metric"]["rank"] for series in shown] == ["0", "1"]
    assert {series["metric"]["jobid"] for series in shown} == {"none"}
    scraped = [
        {at: float(value) for at, value in scene.prometheus.query(f'ryzen_mpi_{name}{{run="real"}}[5s]')[0]["values"]}
        for name in ("step", "loss")
    ]
    pairs = [(int(step), scraped[1][at]) for at, step in scraped[0].items() if at in scraped[1]]  # of one scrape each
    assert pairs
    newest = max(step for step, _ in pairs)
    scene.job.wait_for(lambda: metrics(scene.run)["training/step"][-1:] >= newest)
    recorded = metrics(scene.run)
    losses = dict(zip(recorded["training/step"].tolist(), recorded["training/loss"].tolist(), strict=True))
    assert [loss for _, loss in pairs] == [losses[step] for step, _ in pairs]


def test_filebeat_follows_every_log_of_the_run(scene):
    inputs = yaml.safe_load((MONITORING / "filebeat.yml").read_text())["filebeat.inputs"]
    patterns = [
        path.replace("${RUNS:/shared/runs}", str(scene.run.parent)) for each in inputs for path in each["paths"]
    ]
    followed = [path for pattern in patterns for path in glob.glob(pattern)]
    there = [str(path) for path in scene.run.rglob("*.jsonl*")]
    assert sorted(followed) == sorted(there) and there


def test_a_run_that_ends_in_order_is_forgotten_and_its_file_says_that_it_has_ended(scene):
    scene.job.process.send_signal(signal.SIGUSR1)
    scene.job.wait()
    assert list(scene.prometheus.targets.iterdir()) == []
    text = (scene.run / "metrics.prom").read_text()
    step = metrics(scene.run)["training/step"][-1]
    assert 'ryzen_mpi_running{jobid="none",run="real"} 0.0' in text
    assert f'ryzen_mpi_step{{jobid="none",run="real"}} {float(step)}' in text
    scene.prometheus.wait_for(lambda: not scene.prometheus.query('{__name__=~"up|ryzen_mpi_step", run="real"}'))
