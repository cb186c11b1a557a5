"""env/monitoring: what Prometheus' own tools say of it, dashboards that are valid and new, and the documentation."""

from __future__ import annotations

import enum
import json
import re
import subprocess
import sys
import typing
from pathlib import Path, PurePosixPath

import pytest
import yaml

from ryzen_mpi.metrics.exposition import summed_name
from ryzen_mpi.metrics.signals import SIGNALS, prometheus_name

REPO = Path(__file__).parents[2]
MONITORING = REPO / "env/monitoring"
sys.path += [str(REPO / "tests/mpi"), str(MONITORING)]
import make  # noqa: E402
from scraped import program  # noqa: E402

ALERTS = {rule["alert"]: rule for rule in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]}
DASHBOARDS = sorted((MONITORING / "grafana/dashboards").glob("*.json"))
ACTIONS = {
    "ThroughputDrop", "LossNotFinite", "LossSpike", "GradientDesync", "Straggler", "RankLost", "NoProgress",
    "MemoryPressure", "ThermalPressure", "DiskForCheckpoints", "CheckpointAge", "PacketLoss", "CommunicationShare",
}  # fmt: skip


def run(name: str, *words: str) -> str:
    done = subprocess.run([program(name), *words], cwd=MONITORING, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- Prometheus and Alertmanager --------------------------------------------------------------------------------------


def test_promtool_takes_the_configuration_and_the_rules():
    said = run("promtool", "check", "config", "prometheus.yml")
    assert "2 rule files found" in said and f"{len(ALERTS)} rules found" in said


def test_promtool_fires_every_alert_when_it_should_and_not_else():
    assert "SUCCESS" in run("promtool", "test", "rules", "tests/alerts_test.yml")


def test_every_alert_has_a_test_that_fires_it_and_one_that_does_not():
    cases = yaml.safe_load((MONITORING / "tests/alerts_test.yml").read_text())["tests"]
    asked = [(case["name"], each) for case in cases for each in case["alert_rule_test"]]
    for fires in (True, False):
        assert {each["alertname"] for _, each in asked if bool(each["exp_alerts"]) == fires} == set(ALERTS)
    for name, each in asked:  # a name that says the contrary of the test would mislead
        assert name.startswith(f"{each['alertname']} {'fires' if each['exp_alerts'] else 'does not'}: ")


def test_there_is_an_alert_for_everything_that_was_asked_for_and_each_says_what_to_do():
    assert {f"RyzenMpi{name}" for name in ACTIONS} <= set(ALERTS)
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert len(rule["annotations"]["action"]) > 60 and rule["annotations"]["summary"]


def test_rules_and_alerts_ask_for_nothing_that_is_not_exported():
    files = [MONITORING / "rules.yml", MONITORING / "alerts.yml", *DASHBOARDS]
    text = "".join(path.read_text() for path in files)
    recorded = set(re.findall(r"record: (\S+)", text))
    assert set(re.findall(r"\b(?:run|rank|node):ryzen_mpi\w+:\w+", text)) == recorded
    asked = set(re.findall(r"(?<![:\w])ryzen_mpi_[a-z0-9_]+", text)) - {"ryzen_mpi_rules", "ryzen_mpi_alerts"}
    known = {prometheus_name(signal) for signal in SIGNALS.values()}
    known |= {f"{name}_total" for name in make.STEP_COUNTERS}
    known |= {f"{summed_name(SIGNALS[name])}_total" for name in make.SUMMED}
    known |= {f"ryzen_mpi_{name}" for name in ("running", "build_info", "start_timestamp_seconds")}
    known |= {f"ryzen_mpi_last_{name}_timestamp_seconds" for name in ("step", "sample")}
    known |= {f"ryzen_mpi_gate_{name}" for name in ("verdict", "figure", "threshold_met", "judged_timestamp_seconds")}
    assert asked <= known


def test_alertmanager_takes_its_example():
    assert "SUCCESS" in run("amtool", "check-config", "alertmanager.yml")


# -- Grafana ----------------------------------------------------------------------------------------------------------


def test_dashboards_and_documentation_are_as_the_table_of_signals_and_the_alerts_make_them():
    made = make.dashboards()
    assert sorted(made) == DASHBOARDS and len(made) == 5
    for path, text in made.items():
        assert path.read_text() == text, f"{path.name} is old: env/run python env/monitoring/make.py"
    text = make.DOCUMENT.read_text()
    assert make.document(text) == text, "docs/monitoring.md is old: env/run python env/monitoring/make.py"


def test_every_signal_is_on_a_dashboard():
    text = "".join(path.read_text() for path in DASHBOARDS)
    for signal in SIGNALS.values():
        name = f"{summed_name(signal)}_total" if signal.name in make.SUMMED else prometheus_name(signal)
        assert re.search(rf"\b{name}\b", text), name


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_valid_by_grafanas_schema(path):
    pytest.importorskip("grafana_foundation_sdk", reason="needs Python 3.11")
    assert faults_of_dashboard(json.loads(path.read_text())) == []


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda dashboard: dashboard.update(colour="red"), "colour"),
        (lambda dashboard: dashboard.update(refresh=30), "refresh"),
        (lambda dashboard: dashboard["panels"][0]["gridPos"].update(w="wide"), "w"),
        (lambda dashboard: dashboard["panels"][0]["options"].update(graphMode="pie"), "graph_mode"),
        (lambda dashboard: dashboard["panels"][0]["targets"][0].update(query="up"), "query"),
        (lambda dashboard: dashboard["panels"][0].update(type="speedometer"), "speedometer"),
    ],
)
def test_a_spoiled_dashboard_is_not(spoil, told):
    pytest.importorskip("grafana_foundation_sdk", reason="needs Python 3.11")
    dashboard = json.loads(DASHBOARDS[0].parent.joinpath("run.json").read_text())
    spoil(dashboard)
    assert any(told in fault for fault in faults_of_dashboard(dashboard))


def faults_of_dashboard(document: dict) -> list[str]:
    """What is not as the SDK has it, which is made from Grafana's schema: keys it drops, values of other types."""
    from grafana_foundation_sdk.cog import plugins, runtime
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    kinds = {panel["type"] for panel in document["panels"]} - {"row"}
    unknown = [f"no panel {kind}" for kind in kinds if runtime.panelcfg_config(kind) is None]
    try:
        dashboard = Dashboard.from_json(document)
        back = json.loads(JSONEncoder().encode(dashboard))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [*unknown, repr(error)]
    return [*unknown, *lost(document, back, "dashboard"), *wrong_types(dashboard, "dashboard")]


def lost(ours: object, theirs: object, where: str) -> list[str]:
    """What is in `ours` and not in `theirs`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        gone = [f"{where}.{key} is unknown" for key in ours if key not in theirs]
        return gone + [f for key in ours if key in theirs for f in lost(ours[key], theirs[key], f"{where}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [f for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for f in lost(a, b, f"{where}[{i}]")]
    return [] if ours == theirs else [f"{where}: {ours!r} became {theirs!r}"]


def wrong_types(value: object, where: str) -> list[str]:
    """Attributes, at any depth, that are not of the type their class declares."""
    if isinstance(value, list):
        return [fault for i, each in enumerate(value) for fault in wrong_types(each, f"{where}[{i}]")]
    if not type(value).__module__.startswith("grafana_foundation_sdk") or isinstance(value, enum.Enum):
        return []
    module = vars(sys.modules[type(value).__module__])
    hints = {}
    for base in reversed(type(value).__mro__[:-1]):
        hints |= typing.get_type_hints(base, vars(sys.modules[base.__module__]) | module)
    faults = [
        f"{where}.{name}: {each!r} is no {hints[name]}"
        for name, each in vars(value).items()
        if name in hints and not fits(each, hints[name])
    ]
    return faults + [fault for name, each in vars(value).items() for fault in wrong_types(each, f"{where}.{name}")]


def fits(value: object, hint: object) -> bool:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is object or hint is typing.Any:
        return True
    if origin is typing.Union:
        return any(fits(value, each) for each in inside)
    if origin is typing.Literal:
        return value in inside
    if origin is list:
        return isinstance(value, list) and all(fits(each, inside[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):  # from_json leaves the values of enums as they are
        return isinstance(value, hint) or value in [each.value for each in hint]
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    # the SDK keeps some parts as the JSON has them
    return isinstance(value, hint) or isinstance(value, dict) and hasattr(hint, "from_json") and rebuilt(value, hint)


def rebuilt(value: dict, kind: type) -> bool:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    made = kind.from_json(value)
    return not lost(value, json.loads(JSONEncoder().encode(made)), "") and not wrong_types(made, "")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_lie_side_by_side_and_know_their_data_source(path):
    taken = set()
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        cells = {(x + i, y + j) for i in range(w) for j in range(h)}
        assert x + w <= 24 and not cells & taken, panel["title"]
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_what_is_provisioned_fits_together():
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["datasources"][0]["type"] == "prometheus"
    assert source["datasources"][0]["jsonData"]["timeInterval"] == scraped
    folder = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/ryzen_mpi.yml").read_text())
    assert folder["providers"][0]["type"] == "file" and folder["providers"][0]["options"]["path"]


# -- Filebeat and Logstash: their programs are not to be had here, so what can be read of their files is --------------

LOGS = {
    "performance": ["logs/performance-0000.jsonl", "logs/performance-0011.jsonl.3"],
    "communication": ["logs/communication-0000.jsonl", "logs/communication-0011.jsonl.1"],
    "fault": ["logs/fault-0003.jsonl"],
    "events": ["events/rank-0000.jsonl", "events/supervisor.jsonl"],
}


def filebeat_inputs() -> dict[str, dict]:
    config = yaml.safe_load((MONITORING / "filebeat.yml").read_text())
    return {each["id"].removeprefix("ryzen_mpi-"): each for each in config["filebeat.inputs"]}


def test_filebeat_follows_each_file_of_a_run_in_one_input_and_reads_lines_of_json():
    inputs = filebeat_inputs()
    assert set(inputs) == set(LOGS)
    for name, files in LOGS.items():
        for file in files:
            matching = [stream for stream, each in inputs.items() if followed(each, f"/shared/runs/a run/{file}")]
            assert matching == [name], file
        assert inputs[name]["type"] == "filestream"
        assert inputs[name]["parsers"][0]["ndjson"]["target"] == "" and "add_error_key" in str(inputs[name])
    for other in ("metrics.h5", "logs/.performance-0000.jsonl", "config.yaml", "COMPLETE.json"):
        assert not any(followed(each, f"/shared/runs/a run/{other}") for each in inputs.values())


def followed(each: dict, path: str) -> bool:
    patterns = [pattern.replace("${RUNS:/shared/runs}", "/shared/runs") for pattern in each["paths"]]
    return any(PurePosixPath(path).match(pattern) for pattern in patterns)


def test_logstash_listens_where_filebeat_sends_on_loopback_and_its_blocks_are_closed():
    text = re.sub(r"(?m)#.*$", "", (MONITORING / "logstash.conf").read_text())
    beats = re.search(r'beats \{\s+host => "([\d.]+)"\s+port => (\d+)', text)
    sent = yaml.safe_load((MONITORING / "filebeat.yml").read_text())["output.logstash"]["hosts"]
    assert sent == [":".join(beats.groups())] and beats[1] == "127.0.0.1"
    bare, depth, sections = re.sub(r'"[^"\n]*"', "", text), 0, []
    assert '"' not in bare
    for word in re.findall(r"[\w%]+|[{}]", bare):
        depth += {"{": 1, "}": -1}.get(word, 0)
        assert depth >= 0
        if depth == 0 and word not in "{}":
            sections.append(word)
    assert depth == 0 and sections == ["input", "filter", "output"]


def test_the_index_template_is_for_the_data_streams_that_logstash_writes():
    template = json.loads((MONITORING / "index-template.json").read_text())
    prefix = template["index_patterns"][0].removesuffix("*-*")
    assert all(f"logs-ryzen_mpi.{stream}-default".startswith(prefix) for stream in LOGS)
