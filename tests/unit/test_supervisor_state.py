"""What a supervisor leaves for the next one: its state, its lock, what people ask; and the networks that broke."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest

from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.supervisor import networks, requests
from ryzen_mpi.supervisor.files import Files
from ryzen_mpi.supervisor.ledger import Record
from ryzen_mpi.supervisor.state import State, load_state


@pytest.fixture
def files(tmp_path):
    return Files(RunDirectory(tmp_path / "run"))


# -- state ------------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded_again(tmp_path):
    state = State(3, 8, 12.5, 1, {"n1": 2}, ["ib0"], "checkpoints/step-00000020", 11.0)
    state.records += [Record(1, 8, {"n1": 8}, 5.0, end="fault", cause="killed", seen_s=0.3), Record(2, 4, {}, 6.0)]
    state.save(tmp_path / "state.json")
    assert load_state(tmp_path / "state.json") == state
    assert load_state(tmp_path / "none.json") == State()


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"records": 1}',
        '{"records": [{}]}',
        '{"records": [1]}',
        json.dumps(asdict(State()) | {"colour": "red"}),
        json.dumps(asdict(State()))[:-20],
    ],
)
def test_a_damaged_state_is_refused_with_the_way_out(tmp_path, damage):
    path = tmp_path / "state.json"
    path.write_text(damage)
    with pytest.raises(UserError) as refusal:
        load_state(path)
    assert str(path) in refusal.value.message and f"mv {path} " in refusal.value.hint


# -- the lock ---------------------------------------------------------------------------------------------------------

HOLD = """\
import sys, time
from pathlib import Path
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.supervisor.files import Files
handle = Files(RunDirectory(Path(sys.argv[1]))).lock()
print("locked", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def other(files):
    """Another process that supervises the run."""
    command = [sys.executable, "-c", HOLD, str(files.run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_supervisor_is_refused_with_the_name_of_the_first(files, other):
    assert files.is_supervised()
    with pytest.raises(UserError, match=f"supervised already, by process {other.pid} on {os.uname().nodename}\n"):
        files.lock()
    assert files.is_supervised()


def test_the_lock_of_a_dead_supervisor_harms_nobody(files, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not files.is_supervised() and (files.folder / ".lock").exists()
    handle = files.lock()
    assert files.is_supervised() and f"process {os.getpid()} " in (files.folder / ".lock").read_text()
    os.close(handle)
    assert not files.is_supervised()


def test_a_run_that_nobody_ever_supervised_is_not_supervised(files):
    assert not files.is_supervised()


def test_the_newest_step_is_that_of_a_whole_checkpoint(files):
    assert files.newest_step() == -1
    for name in ("step-00000020", "step-00000100", ".step-00000120.partial", "step-x", "set-aside"):
        (files.run.checkpoints / name).mkdir(parents=True)
    assert files.newest_step() == 100


# -- what people ask --------------------------------------------------------------------------------------------------


def test_a_request_waits_for_its_answer_and_a_refusal_is_an_error(files):
    handle = files.lock()
    first = requests.put(files, "resize", 4, None, "because")
    second = requests.put(files, "rollback", None, 20, "x")
    assert requests.pending(files) == [first, second] and first.why == "because" and "@" in first.by
    requests.answer(files, first, True, "4 ranks train")
    assert requests.pending(files) == [second]
    assert requests.wait_for_answer(files, first, lambda waited_s: None) == "4 ranks train"
    requests.answer(files, second, False, "no such checkpoint")
    os.close(handle)  # an answer that is there counts, whether or not anybody supervises any more
    with pytest.raises(UserError, match="no such checkpoint"):
        requests.wait_for_answer(files, second, lambda waited_s: None)


def test_where_nobody_supervises_nothing_can_be_asked_and_no_answer_is_waited_for(files):
    with pytest.raises(UserError, match="no supervisor is at work"):
        requests.put(files, "resize", 4, None, "")
    handle = files.lock()
    request = requests.put(files, "resize", 4, None, "")
    os.close(handle)
    with pytest.raises(UserError, match="the supervisor ended before it answered"):
        requests.wait_for_answer(files, request, lambda waited_s: None)
    assert requests.pending(files) == []  # who was told so does not expect the next supervisor to do it


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"kind": "explode"}',
        '{"kind": "resize", "ranks": -1}',
        '{"kind": "resize", "ranks": "4"}',
        '{"kind": "rollback", "step": 1.5}',
        '{"kind": "resize", "colour": "red"}',
        "{}",
    ],
)
def test_what_is_no_request_is_passed_over(files, content):
    files.requests.mkdir(parents=True)
    (files.requests / "1-1.json").write_text(content)
    assert requests.pending(files) == []


# -- networks ---------------------------------------------------------------------------------------------------------


def test_the_network_that_broke_last_is_tried_last():
    names = ("ib0", "eth0", "eth1")
    assert networks.order(names, []) == ["ib0", "eth0", "eth1"]
    assert networks.order(names, ["eth0", "ib0"]) == ["eth1", "eth0", "ib0"]
    assert networks.order(names, ["wlan0"]) == list(names)
    assert networks.words(names, ["ib0"]) == ["distributed.interfaces=[eth0,eth1,ib0]"]
    told = networks.environment(names, ["ib0"])
    assert told["OMPI_MCA_btl_tcp_if_include"] == told["PRTE_MCA_oob_tcp_if_include"] == "eth0"
    assert networks.words((), ["ib0"]) == []
    assert not any(name.endswith("if_include") for name in networks.environment((), ["ib0"]))


def test_an_interface_is_remembered_by_the_address_that_was_lost(monkeypatch):
    here = [{"address": "10.0.0.1", "name": "ib0"}, {"address": "10.0.1.1", "name": "eth0"}]
    monkeypatch.setattr(networks, "local_interfaces", lambda: here)
    assert networks.remember([], ["10.0.0.1"], ("ib0", "eth0")) == ["ib0"]
    assert networks.remember(["ib0", "eth0"], ["10.0.0.1"], ("ib0", "eth0")) == ["eth0", "ib0"]
    assert networks.remember(["ib0"], ["10.0.1.1", "10.9.9.9"], ("ib0",)) == ["ib0"]  # eth0 is not ours to choose
