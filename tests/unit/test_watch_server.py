"""The page's server: what it answers, whom it turns away, and that nothing in a request is ever a path."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading

import pytest
import uvicorn
from click.testing import CliRunner
from report_inputs import MARKUP, write_run

from ryzen_mpi.cli import group
from ryzen_mpi.errors import UserError
from ryzen_mpi.watch import server
from ryzen_mpi.watch.finding import Runs
from ryzen_mpi.watch.gates import Gates

NAME = MARKUP.replace("/", "") + "\n\"'><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Of a server with one run of a hostile name."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / NAME, 60)
    (folder / "secret.txt").write_text("secret")
    made = server.listen("127.0.0.1", 0)
    app = server.make_app(Runs((), folder), Gates([folder]), "127.0.0.1")
    config = uvicorn.Config(app, log_level="error", lifespan="off")
    one = uvicorn.Server(config)
    thread = threading.Thread(target=one.run, kwargs={"sockets": [made]})
    thread.start()
    yield made.getsockname()[1]
    one.should_exit = True
    thread.join(10)


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def test_the_page_and_its_parts_are_served_with_a_strict_policy(port):
    for path in ["/", *(f"/static/{name}" for name in server.FILES if name != "index.html"), "/api/runs"]:
        status, headers, body = ask(port, path)
        assert status == 200 and body, path
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert (
            "access-control-allow-origin" not in headers and "server" not in headers or "uvicorn" in headers["server"]
        )


def test_a_run_has_an_identity_that_is_no_path_and_its_name_is_json(port):
    _, _, body = ask(port, "/api/runs")
    (run,) = json.loads(body)["runs"]
    assert run["id"].isalnum() and run["name"].startswith(NAME[:8]) and "\n" in NAME
    status, headers, body = ask(port, f"/api/runs/{run['id']}")
    assert status == 200 and headers["content-type"] == "application/json" and b"<script>" in body


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs/..%2f..%2fsecret.txt", "/api/runs/../../etc/passwd", "/api/runs/%2e%2e/secret.txt",
        "/api/runs/secret.txt",
        "/api/runs/0", "/api/runs//etc/passwd", "/api/runs/%00", "/static/../server.py", "/static/..%2fserver.py",
        "/static/%2e%2e/%2e%2e/server.py", "/static/uplot/../../server.py", "/static//etc/passwd", "/static/index.html",
        "/../../etc/passwd", "/etc/passwd", "/%c0%ae%c0%ae/", "/api", "/static/", "/" + "a" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_address_of_the_page_is_not_found(port, path):
    status, _, body = ask(port, path)
    assert status in (307, 400, 404) and b"secret" not in body and b"root:" not in body


@pytest.mark.parametrize(
    "query", ["since=%00", "since=9999999999999999999.0.0.0", "window=-1", "window=99999", "since=" + "1" * 4000]
)
def test_odd_questions_get_the_plain_answer(port, query):
    run = json.loads(ask(port, "/api/runs")[2])["runs"][0]["id"]
    status, _, body = ask(port, f"/api/runs/{run}?{query}")
    assert status == 200 and len(json.loads(body)["curves"]["columns"]["step"]) == 60


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_but_get_is_answered(port, method):
    status, headers, _ = ask(port, "/api/runs", method)
    assert status == 405 and "content-security-policy" in headers


@pytest.mark.parametrize(("host", "status"), [
    ("localhost:9999", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 421), ("evil.example:8321", 421),
    ("127.0.0.1.evil.example", 421), ("", 421), ("localhost.evil.example", 421),
])  # fmt: skip
def test_a_page_of_another_name_is_turned_away(port, host, status):
    """DNS rebinding: a name of somebody else's that resolves to this machine."""
    assert ask(port, "/api/runs", Host=host)[0] == status


def test_a_port_that_is_taken_is_told_with_a_way_out(port):
    with pytest.raises(UserError, match="can't be had") as told:
        server.listen("127.0.0.1", port)
    assert "--port 0" in told.value.hint


def test_a_host_that_is_none_is_told():
    with pytest.raises(UserError, match="192.0.2.1"):
        server.listen("192.0.2.1", 0)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["/nowhere"],
        ["."],
        ["--runs", "/nowhere"],
        ["--results", "/nowhere", "--runs", "."],
        ["--runs", ".", "/nowhere"],
    ],
)
def test_bad_paths_are_told_with_a_hint_and_exit_code_2(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ryzen_mpi", "watch", *words], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 2 and done.stderr.startswith("error:") and "hint:" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


def test_without_the_extra_the_page_says_what_to_install(tmp_path, monkeypatch):
    write_run(tmp_path / "run", 20)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "ryzen_mpi.watch.server")
    done = CliRunner().invoke(group, ["watch", str(tmp_path / "run"), "--port", "0"])
    assert isinstance(done.exception, UserError) and "ryzen-mpi[watch]" in done.exception.hint


def test_in_a_pipe_the_terminal_view_is_shown_once(tmp_path):
    write_run(tmp_path / "run", 20)
    done = CliRunner().invoke(group, ["watch", str(tmp_path / "run"), "--tty"])
    assert done.exit_code == 0 and "Complete" in done.output and "training loss" in done.output
