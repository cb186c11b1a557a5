"""The checks of nodes, software and network with real ranks: planted faults are found, healthy repeats pass."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import launch
import pytest

LIMIT_S = 200.0
HEALTHY = 10
QUICK = {
    "bytes_per_rank": 8 << 20,
    "duration_s": 1.0,
    "load_s": 1.0,
    "iperf_s": 1.0,
    "datagrams": 640,
    "transfer_bytes": 4 << 20,
}
SPOILED = ("--probability", "0.05")


def requests(*rows: tuple, **more: object) -> list[dict]:
    return [{"check": check, "planted": fault, "options": QUICK} | more for check, fault in rows]


def ask(folder, ranks: int, wanted: list[dict], before: tuple[str, ...] = (), **variables: str) -> list[list[dict]]:
    """What every request found, each time, all of one launch."""
    folder.mkdir(exist_ok=True)
    program = [str(launch.HERE / "checked.py"), str(folder), json.dumps(wanted)]
    command = [*before, *launch.mpirun(ranks, *program)]
    job = launch.run(command, launch.REPO, LIMIT_S, OMP_NUM_THREADS="1", **variables)
    assert job.code == 0, job.said()
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(len(wanted))]


def figure(found: dict, name: str) -> dict:
    return next(item for item in found["figures"] if item["name"] == name)


def value(found: dict, name: str) -> float:
    return figure(found, name)["value"]


def by_request(folder, ranks: int, wanted: list[dict], **more) -> dict[tuple, dict]:
    """(check, fault) -> what the first repetition found."""
    found = ask(folder, ranks, wanted, **more)
    return {(item["check"], item["planted"]): rows[0] for item, rows in zip(wanted, found, strict=True)}


@pytest.fixture(scope="module")
def on_one_node(tmp_path_factory):
    rows = [
        *(("memory", "flipped_bit"), ("affinity", "one_core_for_two"), ("affinity", "unbound")),
        *(("openmpi", None), ("openmpi", "wrong_sums"), ("gloo", None), ("gloo", "wrong_gloo"), ("gloo", "no_gloo")),
        *(("all_pairs", None), ("all_pairs", "no_way"), ("all_pairs", "doubled_address")),
        *(("hardware", None), ("pytorch", None), ("thermal", None)),
    ]
    return by_request(tmp_path_factory.mktemp("one"), 2, requests(*rows, overrides=["distributed.interface=lo"]))


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    rows = [
        *(("network_stability", "interrupted"), ("network_stability", "held_up"), ("network_latency", None)),
        *(("network_latency", "slow_pair"), ("network_speed", None), ("network_speed", "pretended_card")),
        *(("gloo_nodes", None), ("gloo_nodes", "wrong_gloo"), ("gloo_nodes", "no_barrier"), ("network_loss", "no_way")),
    ]
    return by_request(tmp_path_factory.mktemp("apart"), 2, requests(*rows, apart=True), GLOO_SOCKET_IFNAME="lo")


@pytest.fixture(scope="module")
def three_apart(tmp_path_factory):
    rows = [("topology", None), ("topology", "slow_pair"), ("topology", "no_way"), ("all_pairs", "slow_pair")]
    return by_request(tmp_path_factory.mktemp("three"), 3, requests(*rows, apart=True), GLOO_SOCKET_IFNAME="lo")


def test_a_flipped_bit_of_one_rank_is_found_with_rank_and_place(on_one_node):
    found = on_one_node["memory", "flipped_bit"]
    assert len(found["problems"]) == 1 and "rank 1 on " in found["problems"][0]
    assert f"offset {8 * 1234} " in found["problems"][0] and "bit 40" in found["problems"][0]
    assert figure(found, "wrong_words")["value"] > 0


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: nowhere else to run")
def test_wrong_bindings_are_found(on_one_node):
    shared = on_one_node["affinity", "one_core_for_two"]
    assert value(shared, "ranks_per_core") == 2
    assert any("ranks 0 and 1" in line and "are idle" in line for line in shared["problems"])
    loose = on_one_node["affinity", "unbound"]
    assert value(loose, "ranks_not_where_bound") == 1
    assert len(loose["problems"]) >= 1 and all("rank 1 on " in line or "share" in line for line in loose["problems"])


def test_wrong_sums_are_found_and_right_ones_are_not_accused(on_one_node):
    for check, fault in (("openmpi", "wrong_sums"), ("gloo", "wrong_gloo")):
        healthy, broken = on_one_node[check, None], on_one_node[check, fault]
        assert value(healthy, "allreduce_wrong") == 0 and not healthy["problems"], healthy
        assert value(broken, "allreduce_wrong") > 0
        assert any("elements are wrong (8 bytes of float)" in line for line in broken["problems"]), broken
        calls = len(figure(healthy, "allreduce_p99")["samples"])
        assert figure(healthy, "allreduce_p50")["n"] == 20 and 20 <= calls <= 1000  # fewer on a busy machine
        assert 0 < value(healthy, "allreduce_p50") <= value(healthy, "allreduce_p99")


def test_open_mpi_and_pytorch_are_told_as_they_are(on_one_node):
    told = on_one_node["openmpi", None]
    assert value(told, "version") >= 4.01 and value(told, "universe_size") >= 2
    assert "libmpi.so" in told["evidence"][0]
    assert value(on_one_node["pytorch", None], "gloo") == 1 and value(on_one_node["gloo", "no_gloo"], "available") == 0


def test_the_interface_is_the_one_of_the_settings(on_one_node):
    assert "interface lo (set by hand)" in on_one_node["gloo", None]["evidence"]


def test_silent_sensors_are_not_measurable_with_a_reason(on_one_node):
    for item in on_one_node["thermal", None]["figures"]:
        assert item["value"] is not None or item["why"], item
    assert value(on_one_node["hardware", None], "cores_per_node") >= 1


def test_pairs_that_do_not_meet_are_named_and_nothing_hangs(on_one_node):
    assert value(on_one_node["all_pairs", None], "connected") == 1
    matrix = on_one_node["all_pairs", None]["details"]["pairs"]
    assert matrix["latency_us"][0][1] > 0 and matrix["send_mib_s"][1][0] > 0 and matrix["latency_us"][0][0] is None
    for fault, words in (("no_way", "No route to host"), ("doubled_address", "somebody else answers")):
        found = on_one_node["all_pairs", fault]
        assert value(found, "connected") == 0 and value(found, "latency_worst") is None
        assert len(found["problems"]) == 1 and words in found["problems"][0], found["problems"]


def test_an_interruption_and_late_answers_are_found(apart):
    broken = apart["network_stability", "interrupted"]
    assert value(broken, "interruptions") == 1 and "interrupted" in broken["problems"][0]
    late = apart["network_stability", "held_up"]
    assert value(late, "outliers") > 0 and not late["problems"] and late["evidence"]
    assert value(late, "duration") >= QUICK["duration_s"]


def test_a_slow_way_shows_in_the_round_trip(apart):
    assert value(apart["network_latency", "slow_pair"], "round_trip_p50") >= 2000
    assert value(apart["network_latency", None], "tcp_round_trip_p50") > 0


def test_speed_is_measured_and_more_than_the_card_carries_is_impossible(apart):
    healthy, beyond = apart["network_speed", None], apart["network_speed", "pretended_card"]
    assert value(healthy, "speed") > 0.1 and value(healthy, "mpi_speed") > 0.1 and not healthy["impossible"]
    if shutil.which("iperf3"):
        assert len(beyond["impossible"]) == 2 and "over a card of 0.1 Gbit/s" in beyond["impossible"][0]
    else:
        assert "no iperf3" in figure(healthy, "speed")["why"]


def test_gloo_on_all_nodes_is_checked_by_its_results(apart):
    healthy, broken = apart["gloo_nodes", None], apart["gloo_nodes", "wrong_gloo"]
    assert value(healthy, "wrong") == 0 and not healthy["problems"]
    assert all(value(healthy, f"{name}_p50") > 0 for name in ("ring", "tree", "allgather", "barrier"))
    assert [line.split(":")[0] for line in broken["problems"]] == ["allgather"]  # ring and tree are not Gloo's own
    early = apart["gloo_nodes", "no_barrier"]["problems"]
    assert len(early) == 1 and re.fullmatch(r"barrier: [12] of 2 departures too early", early[0]), early


def test_nothing_is_counted_between_nodes_that_do_not_meet(apart):
    found = apart["network_loss", "no_way"]
    assert value(found, "datagrams_lost") is None and "No route to host" in found["problems"][0]


def test_three_nodes_have_a_shape_and_a_slow_link_bends_it(three_apart):
    healthy, slow = three_apart["topology", None], three_apart["topology", "slow_pair"]
    assert not healthy["problems"] and value(healthy, "hops") == 0 and len(figure(healthy, "hops")["samples"]) == 6
    assert value(healthy, "aggregate_bandwidth") > 0 and value(healthy, "bisection_share") > 0
    assert value(slow, "triangle_latency") > 0.9 and value(slow, "detours") == 1
    assert any(line.startswith("host0 to host1") for line in slow["evidence"])
    lost = three_apart["topology", "no_way"]
    assert all(item["value"] is None for item in lost["figures"]) and "No route to host" in lost["problems"][0]


def test_a_slow_pair_stands_out_of_all_pairs(three_apart):
    found = three_apart["all_pairs", "slow_pair"]
    assert value(found, "latency_spread") > 2
    assert any(line.startswith("rank 0 (host0) to 1 (host1)") for line in found["evidence"]), found["evidence"]


def test_healthy_repeats_raise_no_alarm(tmp_path):
    quick = QUICK | {
        "bytes_per_rank": 2 << 20,
        "duration_s": 0.3,
        "load_s": 0.3,
        "iperf_s": 0.3,
        "datagrams": 320,
        "transfer_bytes": 1 << 20,
    }
    wanted = requests(*((name, None) for name in ("hardware", "memory", "numa", "affinity", "pytorch")))
    wanted += requests(*((name, None) for name in ("network_loss", "network_stability")), apart=True)
    wanted = [item | {"options": quick, "repeats": HEALTHY} for item in wanted]
    found = ask(tmp_path, 2, wanted, GLOO_SOCKET_IFNAME="lo")
    for item, rows in zip(wanted, found, strict=True):
        assert len(rows) == HEALTHY
        for row in rows:
            assert not row["problems"] and not row["impossible"], (item, row["problems"])


# --- a network of its own, which the kernel itself spoils ------------------------------------------------------------


def own_network(*rules: str) -> tuple[str, ...]:
    """What starts a program in a network namespace with `rules` (of iptables) on its loopback interface."""
    spoil = " && ".join(["ip link set lo up", *(f"iptables -A INPUT -i lo {rule} -j DROP" for rule in rules)])
    return "unshare", "--net", "bash", "-c", f'{spoil} && exec "$@"', "bash"


def impossible() -> str:
    """Why there can be no such network here; empty where there can."""
    if os.geteuid() != 0:
        return "needs root (it makes a network namespace)"
    missing = [name for name in ("unshare", "ip", "iptables") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    probe = subprocess.run(
        [*own_network(f"-p 254 -m statistic --mode random {' '.join(SPOILED)}"), "true"], capture_output=True
    )
    return "" if probe.returncode == 0 else probe.stderr.decode()[-200:]


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    """network_loss where the kernel drops a twentieth of all UDP, and of all TCP segments with a full load."""
    why = impossible()
    if why:
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)
    rules = (
        f"-p udp -m statistic --mode random {' '.join(SPOILED)}",
        f"-p tcp -m length --length 20000:65535 -m statistic --mode random {' '.join(SPOILED)}",
    )
    wanted = requests(("network_loss", None), apart=True)
    return ask(tmp_path_factory.mktemp("lossy"), 2, wanted, own_network(*rules), GLOO_SOCKET_IFNAME="lo")[0][0]


def test_a_lossy_link_is_found_by_its_datagrams(lossy):
    lost = figure(lossy, "datagrams_lost")
    assert lost["low"] > 0.01 and lost["low"] <= 0.05 <= lost["high"] + 0.03, lost
    assert any("datagrams did not come" in line for line in lossy["evidence"])


def test_a_lossy_link_is_found_by_the_segments_sent_again(lossy):
    assert value(lossy, "retransmitted") > 0.005
    assert any("Tcp.RetransSegs +" in line for line in lossy["evidence"])
