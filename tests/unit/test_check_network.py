"""Checks of the network on pairs of sockets and on planted measurements: what is wrong is found, healthy ones pass."""

from __future__ import annotations

import random
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from ryzen_mpi.bench.pairs import Matrix
from ryzen_mpi.errors import UserError
from ryzen_mpi.validation.checks import network, network_health, nodes
from ryzen_mpi.validation.probes import counters, datagrams, facts, iperf, triangles, wires
from ryzen_mpi.validation.result import Measured

HOSTS = ["a", "b", "c", "d"]


def of(findings, name):
    return next(figure for figure in findings.figures if figure.name == name).value


# --- sockets ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def link():
    """Both ends of a TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first = socket.create_connection(listener.getsockname())
        second, _ = listener.accept()
    for end in (first, second):
        end.settimeout(5.0)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with first, second:
        yield first, second


def at_once(one, other):
    """What `one` returns while `other` runs in a thread; raises what either raised."""
    failed = []

    def guarded():
        try:
            other()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    found = one()
    thread.join()
    assert not failed, failed
    return found


class Faulty:
    """A socket that treats some datagrams as a bad network does: 0 lost, 1 repeated, 2 brought after the next."""

    def __init__(self, inner: socket.socket, fate) -> None:
        self.inner, self.fate, self.held = inner, fate, None

    def sendto(self, message: bytes, to: tuple[str, int]) -> None:
        fate, held = self.fate(), self.held
        self.held = message if fate == 2 else None
        for item in ([], [message] * 2, [])[fate] if fate in (0, 1, 2) else [message]:
            self.inner.sendto(item, to)
        if held is not None:
            self.inner.sendto(held, to)


def exchange(link, count, fate=lambda: 9, token=1, heard=None):
    control_a, control_b = link
    with datagrams.open_socket("127.0.0.1") as a, datagrams.open_socket("127.0.0.1") as b:
        to = b.getsockname()
        return at_once(
            lambda: datagrams.count_received(b, control_b, count, heard or token),
            lambda: datagrams.send(Faulty(a, fate), control_a, to, count, token),
        )


def test_a_healthy_way_loses_nothing(link):
    for _ in range(10):
        found = exchange(link, 500)
        assert (found.sent, found.received, found.repeated, found.late, found.strangers) == (500, 500, 0, 0, 0)
        assert found.hops == {0: 500}


@pytest.mark.parametrize("lost", [1, 7])
def test_every_lost_datagram_is_counted(link, lost):
    victims = set(random.Random(lost).sample(range(300), lost))
    turn = iter(range(300))
    found = exchange(link, 300, lambda: 0 if next(turn) in victims else 9)
    assert (found.sent, found.received) == (300, 300 - lost)
    row = {"rank": 1, "peer": 0, "sends": False, "why": "", "counted": found.told()}
    findings = network_health.judge_loss([row], [{}, {}], HOSTS[:2], [])
    assert of(findings, "datagrams_lost") == lost / 300
    assert f"a to b: {lost} of 300 datagrams did not come" in findings.evidence


def test_a_way_that_loses_all_ends_soon_and_says_so(link):
    found = exchange(link, 100_000, lambda: 0)
    assert found.received == 0 and datagrams.ENOUGH_LOST <= found.sent < 100_000


def test_repeated_and_late_datagrams_are_told_apart_from_lost_ones(link):
    turn = iter(range(96))
    found = exchange(link, 96, lambda: {10: 1, 40: 2}.get(next(turn), 9))
    assert (found.received, found.repeated, found.late) == (96, 1, 1)


def test_datagrams_of_another_job_do_not_count(link):
    found = exchange(link, 32, token=1, heard=2)
    assert found.received == 0 and found.strangers == 32


def test_the_routers_on_the_way_are_counted(link):
    control_a, control_b = link
    with datagrams.open_socket("127.0.0.1") as a, datagrams.open_socket("127.0.0.1") as b:
        a.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, datagrams.HOPS_SENT - 3)  # as three routers leave it
        to = b.getsockname()
        found = at_once(
            lambda: datagrams.count_received(b, control_b, 10, 1),
            lambda: datagrams.send(a, control_a, to, 10, 1),
        )
    assert found.hops == {3: 10}


def test_round_trips_and_transfers_over_a_connection(link):
    first, second = link
    times = at_once(lambda: wires.round_trips(first, True, 20), lambda: wires.round_trips(second, False, 20))
    assert len(times) == 20 and min(times) > 0
    before = wires.segments(first)
    at_once(lambda: wires.transfer(first, True, 5_000_001), lambda: wires.transfer(second, False, 5_000_001))
    after = wires.segments(first)
    if before is not None:
        assert after["sent"] - before["sent"] >= 5_000_001 // 65_535


def test_a_connection_that_breaks_off_is_an_error_and_no_hang(link):
    first, second = link
    second.close()
    with pytest.raises(OSError):
        wires.round_trips(first, True, 3)


@pytest.mark.parametrize("size", range(2, 9))
def test_in_the_matchings_everybody_meets_everybody_once(size):
    rounds = wires.matchings(size)
    met = [pair for round_ in rounds for pair in round_]
    assert sorted(met) == [(a, b) for a in range(size) for b in range(a + 1, size)]
    assert all(len({rank for pair in round_ for rank in pair}) == 2 * len(round_) for round_ in rounds)


# --- the kernel's counts, iperf3's answer ----------------------------------------------------------------------------


def test_counters_that_grew_are_told(tmp_path):
    (tmp_path / "snmp").write_text("Tcp: OutSegs RetransSegs InErrs\nTcp: 100 2 0\nUdp: RcvbufErrors\nUdp: 5\n")
    (tmp_path / "netstat").write_text("TcpExt: TCPTimeouts Other\nTcpExt: 4 9\n")
    statistics = tmp_path / "eth9/statistics"
    statistics.mkdir(parents=True)
    (statistics / "rx_errors").write_text("0\n")
    before = counters.read("eth9", tmp_path, tmp_path)
    assert before == {
        **{"Tcp.OutSegs": 100, "Tcp.RetransSegs": 2, "Tcp.InErrs": 0, "Udp.RcvbufErrors": 5, "TcpExt.TCPTimeouts": 4},
        **{"eth9.rx_errors": 0},
    }
    (statistics / "rx_errors").write_text("3\n")
    (tmp_path / "snmp").write_text("Tcp: OutSegs RetransSegs InErrs\nTcp: 180 9 0\n")
    grown = counters.grown(before, counters.read("eth9", tmp_path, tmp_path))
    assert grown == {"Tcp.OutSegs": 80, "Tcp.RetransSegs": 7, "eth9.rx_errors": 3}
    findings = network_health.judge_loss([], [grown, {}], HOSTS[:2], [])
    assert of(findings, "interface_errors") == 3 and of(findings, "retransmitted") is None
    assert "a, all programs together: Tcp.RetransSegs +7, eth9.rx_errors +3" in findings.evidence


def test_only_a_real_card_has_a_speed(tmp_path):
    (tmp_path / "veth0").mkdir()
    (tmp_path / "veth0/speed").write_text("10000\n")
    assert counters.speed_mbit_s("veth0", tmp_path) is None
    (tmp_path / "veth0/device").mkdir()
    assert counters.speed_mbit_s("veth0", tmp_path) == 10000


def test_iperf_is_read_at_the_receiver():
    row = {"seconds": 0.5, "omitted": False}
    intervals = [row | {"bits_per_second": 9e9, "omitted": True}, row | {"bits_per_second": 5e9}]
    intervals += [row | {"bits_per_second": 7e9}, row | {"bits_per_second": 99e9, "seconds": 0.001}]
    answer = {"end": {"sum_sent": {"retransmits": 3}}}
    answer["server_output_json"] = {"intervals": [{"sum": item} for item in intervals]}
    assert iperf.speed(answer) == iperf.Speed((5.0, 7.0), 3)
    assert "told nothing" in iperf.speed({}).why


class Exchange:
    """Every rank says the same."""

    def allgather(self, value):
        return [value, value]


def test_more_than_the_card_can_carry_is_impossible(monkeypatch):
    from ryzen_mpi.comm import rendezvous

    monkeypatch.setattr(rendezvous, "choose_interface", lambda world, settings: SimpleNamespace(name="eth9"))
    monkeypatch.setattr(counters, "speed_mbit_s", lambda name: 10_000)
    world = SimpleNamespace(exchange=Exchange())
    assert network.beyond_the_card(world, {(0, 1): (9.4, 9.5, 9.9)}, HOSTS) == []
    found = network.beyond_the_card(world, {(0, 1): (9.4, 41.0, 44.0)}, HOSTS)
    assert found == ["a to b: 41 Gbit/s over a card of 10 Gbit/s"]


# --- all pairs, stability, topology ----------------------------------------------------------------------------------


def matrix(ranks: int, latency: float = 10.0, speed: float = 1000.0) -> Matrix:
    empty = np.full((ranks, ranks), np.nan)
    found = Matrix(empty.copy(), empty.copy(), empty.copy(), valid=True)
    off, noise = ~np.eye(ranks, dtype=bool), np.random.default_rng(ranks)
    for values, usual in ((found.latency_us, latency), (found.send_mib_s, speed), (found.receive_mib_s, speed)):
        values[off] = usual * noise.uniform(0.98, 1.02, off.sum())
    return found


MET = Measured("connected", 1.0, "1")


def test_pairs_that_are_alike_raise_no_alarm():
    for ranks in range(2, 12):
        findings = network.judge_pairs(matrix(ranks), [0] * ranks, ["a"] * ranks, MET)
        assert not findings.problems and of(findings, "slowest_link") > 0.9 and of(findings, "latency_spread") < 1.1
        assert findings.details["pairs"]["latency_us"][0][0] is None


def test_a_slow_link_stands_out_among_its_kind():
    found, where = matrix(4), [0, 0, 1, 1]
    inside = np.equal.outer(where, where) & ~np.eye(4, dtype=bool)
    found.latency_us[inside] /= 20  # shared memory: no reason to call the network slow
    found.send_mib_s[inside] *= 5
    assert of(network.judge_pairs(found, where, ["a", "a", "b", "b"], MET), "latency_spread") < 1.1
    found.send_mib_s[0, 3], found.latency_us[0, 3] = 300.0, 45.0
    findings = network.judge_pairs(found, where, ["a", "a", "b", "b"], MET)
    assert of(findings, "slowest_link") == pytest.approx(0.3, abs=0.02) and of(findings, "latency_spread") > 4
    assert of(findings, "bandwidth_asymmetry") > 1
    assert [line.split(":")[0] for line in findings.evidence if "times the median" in line] == ["rank 0 (a) to 3 (b)"]


def test_a_wrong_message_is_a_problem():
    found = matrix(2)
    found.valid = False
    assert "wrong contents" in network.judge_pairs(found, [0, 1], HOSTS, MET).problems[0]


def series(rounds: int, seed: int = 1, slope: float = 0.0) -> list[list]:
    noise = np.random.default_rng(seed)
    return [
        [0, 1, at / 10, list(50 * (1 + slope * at / rounds) * noise.lognormal(0, 0.05, 20))] for at in range(rounds)
    ]


def test_a_steady_network_has_no_drift_and_no_outliers():
    for seed in range(10):
        findings = network_health.judge_stability(series(100, seed), 10.0, [], HOSTS)
        assert of(findings, "latency_drift") < 0.05 and of(findings, "outliers") == 0
        assert of(findings, "interruptions") == 0 and not findings.problems


def test_a_slow_drift_and_a_spike_are_found():
    found = network_health.judge_stability(series(100, slope=0.3), 10.0, [], HOSTS)
    drift = next(figure for figure in found.figures if figure.name == "latency_drift")
    assert 0.2 < drift.low == drift.value < drift.high < 0.35 and "+" in drift.why
    spiked = series(100)
    spiked[42][3][7] = 5000.0
    found = network_health.judge_stability(spiked, 10.0, [], HOSTS)
    assert of(found, "outliers") == 1 / 2000 and of(found, "latency_drift") < 0.05
    assert len(found.evidence) == 1 and found.evidence[0].startswith("a and b: 5 ms at 4.2 s")


def test_a_network_that_nobody_saw_is_not_measurable():
    findings = network_health.judge_stability([], 10.0, ["a and b do not meet"], HOSTS)
    assert of(findings, "round_trip_p50") is None and findings.problems


def shape(count: int, **changes: object) -> dict:
    off = ~np.eye(count, dtype=bool)
    noise = np.random.default_rng(count)
    pairs = {pair: 20.0 for round_ in wires.matchings(count) for pair in round_}
    base = {
        "hosts": HOSTS[:count],
        "latency_us": np.where(off, 10 * noise.uniform(0.98, 1.02, off.shape), np.nan),
        "gbit_s": np.where(off, 10 * noise.uniform(0.98, 1.02, off.shape), np.nan),
        "alone": pairs,
        "bisections": [{pair: 20.0 for pair in round_} for round_ in wires.matchings(count)],
        "aggregate": [10.0 * count] * 20,
        "evidence": [],
        "hops": [[None if a == b else 0 for b in range(count)] for a in range(count)],
    }
    return base | changes


@pytest.mark.parametrize("count", [3, 4])
def test_an_even_network_of_three_and_four_nodes(count):
    findings = nodes.judge_topology(shape(count))
    assert of(findings, "triangle_bandwidth") < 0.05 and of(findings, "triangle_latency") < 0.05
    assert of(findings, "bisection_share") == 1 and of(findings, "aggregate_share") == pytest.approx(1, abs=0.03)
    assert of(findings, "hops") == 0 and of(findings, "detours") == 0 and not findings.evidence


def test_a_slow_link_bends_its_triangles():
    found = shape(4)
    found["gbit_s"][0, 2] = found["gbit_s"][2, 0] = 2.0
    findings = nodes.judge_topology(found)
    assert of(findings, "triangle_bandwidth") > 0.5
    assert {line.split(":")[0] for line in findings.evidence} == {"a to c", "c to a"}
    assert sum(deviation < 0.05 for _, deviation in triangles.triangles(found["gbit_s"])) == 2  # those without it


def test_a_detour_that_is_quicker_and_uneven_routes_are_found():
    found = shape(3)
    found["latency_us"][0, 1] = found["latency_us"][1, 0] = 50.0
    found["hops"] = [[None, 2, 1], [1, None, 1], [1, 1, None]]
    findings = nodes.judge_topology(found)
    assert of(findings, "detours") == 1 and of(findings, "hops") == 2
    assert any("a to b: 2.5 times slower than over c" in line for line in findings.evidence)
    assert "a and b: 2 routers one way, 1 back" in findings.evidence
    found["hops"][0][1] = None
    assert of(nodes.judge_topology(found), "hops") is None


def test_a_narrow_cut_shows_in_the_bisection():
    found = shape(4)
    narrow = dict.fromkeys(found["bisections"][1], 8.0)
    findings = nodes.judge_topology(found | {"bisections": [found["bisections"][0], narrow, found["bisections"][2]]})
    assert of(findings, "bisection_bandwidth") == 16 and of(findings, "bisection_share") == 0.4


# --- figures ---------------------------------------------------------------------------------------------------------


def test_nothing_lost_of_n_claims_no_more_than_its_bound():
    figure = facts.share("lost", 0, 29_956)
    assert figure.value == 0 and figure.high == pytest.approx(1 - 0.025 ** (1 / 29_956))
    assert facts.share("lost", 0, 0).value is None


@pytest.mark.parametrize("value", ["soon", 0, -1, float("nan"), float("inf"), None])
def test_an_option_that_is_no_number_above_0_is_refused(value):
    context = SimpleNamespace(options={"duration_s": value})
    with pytest.raises(UserError, match="duration_s="):
        facts.number(context, "duration_s", 10.0)
    assert facts.number(context, "repeats", 3.0) == 3.0


def test_call_figures_hold_their_interval_and_samples():
    times = np.random.default_rng(3).lognormal(3, 0.2, 1000)
    p50, p99 = facts.call_figures("x", times, range(0, 1001, 50), "")
    assert p50.low <= p50.value <= p50.high and p50.n == len(p50.samples) == 20
    assert p99.low <= p99.value <= p99.high and p99.n == len(p99.samples) == 1000
    assert p99.value == pytest.approx(np.sort(times)[989])


def test_windows_are_smaller_on_a_link_on_which_they_would_take_seconds():
    for mbit, size in ((50, 1 << 16), (400, 1 << 16), (1000, 1 << 20), (100_000, 1 << 20)):
        assert network.window_bytes(64 * (1 << 16) * 8 / (mbit * 1e6)) == size
