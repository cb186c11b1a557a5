"""A real Prometheus with the rules of env/monitoring, and a real node-exporter, in a folder of a test."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "env/monitoring"


def program(name: str) -> str:
    """The path of a program of Debian's. Where everything is checked its absence is an error and not an excuse."""
    path = shutil.which(name)
    if path is None:
        package = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}.get(name, name)
        reason = f"no {name} on PATH (Debian: apt-get install {package})"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Prometheus:
    """Runs both in `folder` until closed. `targets` and `textfiles` are the folders they look into.

    The configuration is ours, but for the ports, and a second where ours says 15.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, exporter = folder, free_port(), free_port()
        self.targets, self.textfiles = folder / "targets", folder / "textfiles"
        self.targets.mkdir()
        self.textfiles.mkdir()
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][1]["static_configs"] = [{"targets": [f"127.0.0.1:{exporter}"]}]
        del config["alerting"]
        for name in config["rule_files"]:
            shutil.copy(MONITORING / name, folder / name)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._programs = [
            self._start(
                "prometheus-node-exporter",
                f"--web.listen-address=127.0.0.1:{exporter}",
                "--collector.disable-defaults",
                "--collector.textfile",
                f"--collector.textfile.directory={folder}/text*",  # a pattern, as for run directories
            ),
            self._start(
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ),
        ]

    def close(self) -> None:
        for process in self._programs:
            process.kill()
            process.wait(30)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that `expr` gives now, each with its labels and newest value."""
        return self.api("query", query=expr)["result"]

    def values(self, expr: str) -> list[float]:
        return [float(series["value"][1]) for series in self.query(expr)]

    def api(self, name: str, **parameters: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/api/v1/{name}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def wait_for(self, condition, limit_s: float = 60.0) -> None:
        """Until `condition()` holds."""
        end = time.monotonic() + limit_s
        while True:
            try:
                if condition():
                    return
            except OSError:  # it does not listen yet
                pass
            assert time.monotonic() < end, f"what was waited for did not come\n{self.said()}"
            time.sleep(0.2)

    def said(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def _start(self, name: str, *words: str) -> subprocess.Popen:
        with (self.folder / f"{name}.log").open("w") as log:
            return subprocess.Popen([program(name), *words], cwd=self.folder, stdout=log, stderr=log)
