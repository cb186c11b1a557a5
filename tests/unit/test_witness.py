"""What a rank says of its end, and the signals that ask for it."""

from __future__ import annotations

import json
import os
import signal

import pytest

from ryzen_mpi.beacon import open_beacon
from ryzen_mpi.cluster.job import how_it_ends, leader_decides
from ryzen_mpi.cluster.world import alone
from ryzen_mpi.errors import PeerLost, Stopped, UserError
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.training.stop import StopRequest
from ryzen_mpi.training.witness import Witness


@pytest.mark.parametrize(
    ("error", "end", "text"),
    [
        (UserError("no room", "buy some"), "refused", "no room\n  hint: buy some"),
        (Stopped("stopped by SIGUSR1"), "stopped", "stopped by SIGUSR1"),
        (KeyboardInterrupt("SIGTERM"), "stopped", "SIGTERM"),
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (PeerLost("rank 1 has ended"), "lost", "rank 1 has ended"),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed"), "lost", None),
        (RuntimeError("a bug"), "failed", "RuntimeError: a bug"),
        (KeyError("x"), "failed", "KeyError: 'x'"),
    ],
)
def test_every_error_is_told_at_once_and_recorded(tmp_path, error, end, text):
    beacon, run = open_beacon({}), RunDirectory(tmp_path, 4)
    beacon.beat("train", step=12)
    witness = Witness(alone(), run, beacon)
    with pytest.raises(type(error)), witness, witness:
        raise error
    reading = beacon.reading()
    assert (reading.phase, reading.text) == (end, str(error) if text is None else text)
    (line,) = [json.loads(line) for line in (tmp_path / "events/rank-0000.jsonl").read_text().splitlines()]
    assert line["event"]["action"] == ("stop" if end == "stopped" else "failure")
    assert line["message"] == reading.text and line["labels"]["epoch"] == "4"
    assert (line["ryzen"]["step"], line["ryzen"]["phase"]) == (12, "train")
    assert end == "stopped" or (line["ryzen"]["type"], line["ryzen"]["end"]) == (type(error).__name__, end)


def test_a_block_that_ends_well_says_nothing(tmp_path):
    beacon = open_beacon({})
    with Witness(alone(), RunDirectory(tmp_path), beacon):
        pass
    assert beacon.reading().phase == "start" and not (tmp_path / "events").exists()


def test_what_cannot_be_recorded_is_not_lost(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(RuntimeError, match="a bug"), Witness(alone(), RunDirectory(tmp_path), open_beacon({})):
        raise RuntimeError("a bug")
    monkeypatch.undo()
    told = capsys.readouterr().err
    assert "rank 0 after step -1: RuntimeError: a bug" in told and "No space left on device" in told


def test_an_event_folder_that_cannot_be_made_does_not_hide_the_error(tmp_path, capsys):
    (tmp_path / "events").write_text("a file")
    with pytest.raises(RuntimeError, match="a bug"), Witness(alone(), RunDirectory(tmp_path), open_beacon({})):
        raise RuntimeError("a bug")
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_a_request_is_remembered_and_the_first_one_counts():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGUSR1 == stop.agreed(stop.signal)
        assert 0 <= stop.since_agreed_s < 60
        with pytest.raises(Stopped, match="SIGUSR1 before the first step"):
            stop.check()


def test_long_work_is_left_at_once():
    with StopRequest() as stop:
        with pytest.raises(Stopped, match="SIGTERM"), stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("went on")
        with pytest.raises(Stopped), stop.at_once():
            raise AssertionError("went on")
    with StopRequest() as stop, stop.at_once():
        pass


def test_a_stop_that_the_leader_met_is_a_stop_on_all_ranks():
    def stopped():
        raise Stopped("SIGUSR1")

    with pytest.raises(Stopped):
        leader_decides(alone(), stopped)
    assert how_it_ends(Stopped("x"))[0] == "stopped"
