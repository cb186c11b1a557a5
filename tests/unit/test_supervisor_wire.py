"""What guards and supervisor tell each other: only what carries the attempt's seal counts, and only once."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryzen_mpi.supervisor.listener import Listener
from ryzen_mpi.supervisor.wire import MAX_BYTES, Plan, Report, new_token, seal, unseal

TOKEN = new_token()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(st.text(max_size=10), JSON, max_size=5))
def test_what_was_sealed_is_read_again(message):
    assert unseal(TOKEN, seal(TOKEN, message)) == message


@given(st.binary(max_size=100))
def test_noise_is_no_message(noise):
    assert unseal(TOKEN, noise) is None


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_datagram_with_any_byte_changed_is_no_message(place, change):
    datagram = bytearray(seal(TOKEN, {"step": 1}))
    datagram[place % len(datagram)] ^= change
    assert unseal(TOKEN, bytes(datagram)) is None


def test_another_attempts_seal_counts_for_nothing():
    assert unseal(TOKEN, seal(new_token(), {"step": 1})) is None


def test_the_longest_report_fits_into_a_datagram():
    report = Report(10**6, 10**6, "h" * 64, 2**22, 2**40, text="\x01" * 500, phase="complete", why="its launcher")
    assert len(seal(TOKEN, asdict(report))) < MAX_BYTES


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_is_for_its_owner_alone_and_replaces_one_that_was_open_to_others(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("old")
    path.chmod(0o666)
    before, plan = os.umask(0), Plan(3, TOKEN, [("10.0.0.1", 4000)], 0.5, 10.0)
    try:
        plan.write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Plan.read(path) == plan


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"addresses": 3}',
        '{"addresses": [["h"]]}',
        '{"addresses": [], "epoch": 1}',
        '{"addresses": [["h", "x"]], "epoch": 1, "token": "", "beat_s": 1, "lease_s": 1}',
    ],
)
def test_what_is_no_plan_is_refused_as_the_docstring_says(tmp_path, damage):
    (tmp_path / "plan").write_text(damage)
    with pytest.raises((OSError, ValueError, TypeError, KeyError)):
        Plan.read(tmp_path / "plan")


# -- the listener -----------------------------------------------------------------------------------------------------


@pytest.fixture
def listener():
    with Listener(7, ["127.0.0.1"], 0.5, 10.0) as found:
        yield found


@pytest.fixture
def link(listener):
    """A socket as a guard has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.connect(listener.plan.addresses[0])
        found.settimeout(5)
        yield found


REPORT = Report(7, 0, "node1", 99, 1, step=5)


def send(listener, link, report: Report, token: str | None = None) -> None:
    link.send(seal(token or listener.plan.token, asdict(report)))


def answer(listener, link) -> dict:
    return unseal(listener.plan.token, link.recv(MAX_BYTES))


def test_a_report_is_kept_and_answered_with_its_number_and_the_order(listener, link):
    send(listener, link, REPORT)
    assert answer(listener, link) == {"epoch": 7, "number": 1, "order": "go"}
    (pulse,) = listener.pulses().values()
    assert pulse.report == REPORT and 0 <= time.monotonic() - pulse.heard_s < 5


def test_an_order_is_told_at_once_and_never_taken_back(listener, link):
    send(listener, link, REPORT)
    answer(listener, link)
    told = []
    for word in ("stop", "die", "stop", "go"):
        listener.order(word)
        told.append(answer(listener, link)["order"])
    assert told == ["stop", "die", "die", "die"]


def test_foreign_forged_and_overtaken_reports_change_nothing(listener, link):
    newest = replace(REPORT, number=9, step=50)
    send(listener, link, newest)
    answer(listener, link)
    good = json.dumps(asdict(replace(newest, number=10, step=60))).encode()
    for datagram in (b"", b"x" * 32, b"x" * 32 + good, good):
        link.send(datagram)
    send(listener, link, replace(newest, number=10, step=60), new_token())
    send(listener, link, replace(newest, number=10, epoch=6, step=60))
    send(listener, link, replace(newest, number=3, step=3))
    link.send(seal(listener.plan.token, {"epoch": 7, "colour": "red"}))
    link.send(seal(listener.plan.token, {}))
    send(listener, link, replace(REPORT, rank=1))  # good: all before it has been read when it is answered
    assert answer(listener, link)["number"] == 1
    assert {rank: pulse.report.step for rank, pulse in listener.pulses().items()} == {0: 50, 1: 5}


def test_a_datagram_sent_again_is_no_sign_of_life(listener, link):
    send(listener, link, REPORT)
    answer(listener, link)
    heard = listener.pulses()[0].heard_s
    time.sleep(0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.sendto(seal(listener.plan.token, asdict(REPORT)), listener.plan.addresses[0])
        send(listener, link, replace(REPORT, rank=1))
        answer(listener, link)
        assert listener.pulses()[0].heard_s == heard
        listener.order("die")  # still goes to the guard, not to whoever sent its words again
        assert {answer(listener, link)["order"] for _ in range(2)} == {"die"}


def test_the_same_report_over_two_networks_is_heard_over_both():
    with Listener(7, ["127.0.0.1", "127.0.0.2"], 0.5, 10.0) as listener:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.settimeout(5)
            for address in listener.plan.addresses:
                link.sendto(seal(listener.plan.token, asdict(REPORT)), address)
                assert answer(listener, link)["number"] == 1
            assert set(listener.pulses()[0].heard) == {"127.0.0.1", "127.0.0.2"}
