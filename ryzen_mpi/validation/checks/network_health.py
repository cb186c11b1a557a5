"""Whether the network loses anything, and whether it stays as it is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ryzen_mpi.validation.probes import counters, facts
from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

if TYPE_CHECKING:
    from ryzen_mpi.cluster.world import World
    from ryzen_mpi.validation.probes.wires import Wires

DATAGRAMS = 20_000
TRANSFER_BYTES = 256 << 20
STABLE_S, LONGEST_S = 10.0, 3600.0
"""Beyond an hour nothing is asked, and a soak of a day beside it is long enough."""
MOST_ROUNDS, SHORTEST_ROUND_S = 2000, 0.05
TRIPS = 20
STANDSTILL_S = 1.0
BROKEN = f"connections that broke, and round trips beyond {STANDSTILL_S:g} s"
OUTLIER = 10
"""Times the median: beyond it a round trip is one that something held up."""


@check("network_loss", "E7", "datagrams and segments lost between all pairs of nodes", "nodes", 300, 2, 2)
def network_loss(context: Context) -> Findings:
    """Collective. `datagrams`: each way between each pair; `transfer_bytes`: over TCP, likewise."""
    from ryzen_mpi.validation.probes import wires

    world = context.world
    assert world is not None
    count, size = (
        int(facts.number(context, name, default))
        for name, default in (("datagrams", DATAGRAMS), ("transfer_bytes", TRANSFER_BYTES))
    )
    facts.same_network(context)
    hosts = world.exchange.allgather(world.hostname)
    with wires.connected(world) as ends:
        problems = wires.describe(hosts, ends.failed)
        interface = ends.interface[world.rank]["name"]
        before = counters.read(interface)
        rows = []
        for round_ in wires.matchings(world.size):
            context.tell("; ".join(f"{hosts[a]} and {hosts[b]}" for a, b in round_))
            pair = wires.mine(round_, world.rank)
            for sender_first in (True, False):
                rows += world.exchange.allgather(_exchange(world, ends, pair, sender_first, count, size))
        grown = world.exchange.allgather(counters.grown(before, counters.read(interface)))
    return judge_loss([row for row in rows if row], grown, hosts, problems)


def _exchange(
    world: World, ends: Wires, pair: tuple[int, int] | None, first_sends: bool, count: int, size: int
) -> dict[str, Any] | None:
    """What this rank saw of one direction of its pair; None where it has none or does not meet the other. Local."""
    from ryzen_mpi.validation.probes import datagrams, wires

    if pair is None or (peer := sum(pair) - world.rank) not in ends.peers:
        return None
    sends, link = (world.rank == pair[0]) == first_sends, ends.peers[peer]
    row: dict[str, Any] = {"rank": world.rank, "peer": peer, "sends": sends, "why": ""}
    try:
        with datagrams.open_socket(ends.address[world.rank]) as data:
            link.sendall(data.getsockname()[1].to_bytes(2, "big"))
            port = int.from_bytes(wires.receive(link, 2), "big")
            token = (pair[0] << 40) | (pair[1] << 8) | first_sends
            if sends:
                datagrams.send(data, link, (ends.address[peer], port), count, token)
            else:
                row["counted"] = datagrams.count_received(data, link, count, token).told()
        before = wires.segments(link)
        wires.transfer(link, sends, size)
        after = wires.segments(link)
        if sends and before and after:
            row["segments"] = {name: after[name] - before[name] for name in after}
    except OSError as error:
        row["why"] = str(error.strerror or error)
    return row


def judge_loss(
    rows: Sequence[Mapping[str, Any]], grown: Sequence[Mapping[str, int]], hosts: Sequence[str], problems: Sequence[str]
) -> Findings:
    """Findings of all directions. Local."""
    counted = [row for row in rows if row.get("counted")]
    sent, received = (sum(row["counted"][name] for row in counted) for name in ("sent", "received"))
    segments = [row["segments"] for row in rows if row.get("segments")]
    lost_line = "each way between each pair of nodes; 0 of n proves no more than the upper bound"
    evidence = []
    for row in rows:
        who = f"{hosts[row['peer']]} to {hosts[row['rank']]}"
        if row["why"]:
            problems = [
                *problems,
                f"{hosts[row['rank']]} and {hosts[row['peer']]}: the transfer broke off: {row['why']}",
            ]
        if row.get("counted") and (missing := row["counted"]["sent"] - row["counted"]["received"]):
            evidence.append(f"{who}: {missing} of {row['counted']['sent']} datagrams did not come")
        if row.get("counted") and (row["counted"]["repeated"] or row["counted"]["late"]):
            evidence.append(f"{who}: {row['counted']['repeated']} repeated, {row['counted']['late']} out of order")
        if row.get("segments") and row["segments"]["again"]:
            again = row["segments"]
            evidence.append(
                f"{hosts[row['rank']]} to {hosts[row['peer']]}: {again['again']} of {again['sent']} segments sent again"
            )
    for host, counts in zip(hosts, grown, strict=True):
        errors = {name: count for name, count in counts.items() if name != "Tcp.OutSegs"}
        if errors:
            evidence.append(f"{host}, all programs together: {', '.join(f'{k} +{v}' for k, v in errors.items())}")
    faults = [float(sum(v for k, v in counts.items() if "." in k and k.split(".")[0] not in ("Tcp", "Udp", "TcpExt")))
              for counts in grown]  # fmt: skip
    if segments:
        again, whole = (sum(item[name] for item in segments) for name in ("again", "sent"))
        resent = facts.share("retransmitted", min(again, whole), whole, "segments of our own connections (TCP_INFO)")
    else:
        resent = not_measurable("retransmitted", "1", "the kernel does not count segments by connection (TCP_INFO)")
    figures = (
        facts.share("datagrams_lost", sent - received, sent, lost_line),
        resent,
        facts.most("interface_errors", faults, "1", "errors and drops of the interface meanwhile, on every node"),
    )
    return Findings(figures, problems, evidence=evidence, details={"rows": list(rows), "counters": list(grown)})


@check("network_stability", "E7", "round trips between all pairs of nodes over a long time", "nodes", 60, 2, 2)
def network_stability(context: Context) -> Findings:
    """Collective. `duration_s`: 10 s unless given, at most the 3600 that the documents ask for."""
    from ryzen_mpi.bench.disturbance import is_disturbed, waited_share
    from ryzen_mpi.bench.output import disturbed_mark
    from ryzen_mpi.cluster.kernel import read_threads
    from ryzen_mpi.validation.probes import wires

    world = context.world
    assert world is not None
    seconds = min(facts.number(context, "duration_s", STABLE_S), LONGEST_S)
    period = max(SHORTEST_ROUND_S, seconds / MOST_ROUNDS)
    facts.same_network(context)
    hosts = world.exchange.allgather(world.hostname)
    with wires.connected(world) as ends:
        problems = wires.describe(hosts, ends.failed)
        threads, began = read_threads(), time.monotonic()
        rows, breaks = _watch_all(world, ends, hosts, seconds, period)
        elapsed = world.exchange.broadcast(time.monotonic() - began)
        waited = waited_share(threads, read_threads(), int(elapsed * 1e9))
        told = world.exchange.allgather([rows, breaks, None if waited != waited else waited])
    rows = [row for part, *_ in told for row in part]
    findings = judge_stability(rows, elapsed, [*problems, *(line for _, lines, _ in told for line in lines)], hosts)
    disturbed = [
        f"disturbed: {host}: {disturbed_mark(True, share, 0.0)}"
        for host, (_, _, share) in zip(hosts, told, strict=True)
        if share is not None and is_disturbed(share)
    ]
    return replace(findings, evidence=[*findings.evidence, *disturbed])


def _watch_all(
    world: World, ends: Wires, hosts: Sequence[str], seconds: float, period: float
) -> tuple[list[list[Any]], list[str]]:
    """Rows [first, second, seconds, round trips in us] of the pairs this rank leads, and which broke. Local.

    A thread for each pair: one that stands still holds up no other, and MPI, which would wait out a cut, has no part.
    """
    rows: list[list[Any]] = []
    breaks: list[str] = []

    def watch(peer: int) -> None:
        pair = min(world.rank, peer), max(world.rank, peer)
        try:
            _watch_pair(ends.peers[peer], world.rank == pair[0], seconds, period, pair, rows)
        except OSError as error:
            ends.peers[peer].close()
            if world.rank == pair[0]:
                at = time.monotonic() - began
                why = str(error.strerror or error)
                breaks.append(f"{hosts[pair[0]]} and {hosts[pair[1]]}: interrupted after {at:.1f} s: {why}")

    workers = [threading.Thread(target=watch, args=(peer,), daemon=True) for peer in ends.peers]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return rows, breaks


def _watch_pair(
    link: socket.socket, leads: bool, seconds: float, period: float, pair: tuple[int, int], rows: list[list[Any]]
) -> None:
    """Round trips every `period` until the side that leads has had enough. Both sides call it. Raises OSError."""
    from ryzen_mpi.validation.probes import wires

    link.settimeout(wires.ANSWER_S + period)
    began = time.monotonic()
    while True:
        at = time.monotonic() - began
        if leads:
            word = b"+" if at < seconds else b"."
            link.sendall(word)
        else:
            word = wires.receive(link, 1)
        if word == b".":
            return
        times = wires.round_trips(link, leads, TRIPS)
        if leads:
            rows.append([*pair, round(at, 3), [round(value, 2) for value in times]])
            time.sleep(max(0.0, period - (time.monotonic() - began - at)))


def judge_stability(
    rows: Sequence[Sequence[Any]], elapsed: float, problems: Sequence[str], hosts: Sequence[str]
) -> Findings:
    """Findings of rows [first, second, seconds, round trips in us]. Local."""
    import numpy as np

    duration = Measured("duration", elapsed, "s", why="the network was watched; the documents ask for 3600 s")
    if not rows:
        why = "no pair of nodes had a round trip"
        names = (("round_trip_p50", "us"), ("round_trip_p99", "us"), ("latency_drift", "1"), ("outliers", "1"))
        return Findings((duration, *(not_measurable(*item, why) for item in names)), problems)
    pairs = sorted({(row[0], row[1]) for row in rows})
    usual = {pair: np.median([value for row in rows if (row[0], row[1]) == pair for value in row[3]]) for pair in pairs}
    slowest = max(pairs, key=lambda pair: float(usual[pair]))
    evidence, drifts, held_up, total = [], {}, 0, 0
    for pair in pairs:
        mine = [row for row in rows if (row[0], row[1]) == pair]
        name = f"{hosts[pair[0]]} and {hosts[pair[1]]}"
        at, medians = np.array([row[2] for row in mine]), np.array([np.median(row[3]) for row in mine])
        drifts[pair] = drift(at, medians, elapsed)
        late = [(row[2], max(row[3])) for row in mine if max(row[3]) > OUTLIER * usual[pair]]
        held_up += sum(1 for row in mine for value in row[3] if value > OUTLIER * usual[pair])
        total += sum(len(row[3]) for row in mine)
        evidence += [f"{name}: {worst / 1e3:.3g} ms at {when:.1f} s, {worst / usual[pair]:.3g} times the median"
                     for when, worst in sorted(late, key=lambda item: -item[1])[:3]]  # fmt: skip
    standstills = [value for row in rows for value in row[3] if value > STANDSTILL_S * 1e6]
    trips = [row[3] for row in rows if (row[0], row[1]) == slowest]
    bounds = np.cumsum([0, *map(len, trips)]).tolist()
    why = f"8 bytes over TCP, {hosts[slowest[0]]} and {hosts[slowest[1]]}, the slowest of {len(pairs)}"
    medians_figure, tail = facts.call_figures("round_trip", np.concatenate(trips), bounds, why)
    # hours of single round trips are too many to keep: the rounds' medians are
    tail = Measured(tail.name, tail.value, tail.unit, tail.n, tail.low, tail.high, why=tail.why)
    moved = max(drifts, key=lambda pair: proven(*drifts[pair][1:]))
    slope, low, high = drifts[moved]
    drift_why = (
        f"the least the slope can be (0: it may be none), as a share of the median over the whole time; it is "
        f"{slope:+.2%} for {hosts[moved[0]]} and {hosts[moved[1]]}"
    )
    least, most = proven(low, high), max(abs(low), abs(high))
    figures = (
        duration,
        medians_figure,
        tail,
        Measured("latency_drift", least, "1", len(trips), least, most, why=drift_why),
        facts.share("outliers", held_up, total, f"round trips beyond {OUTLIER} times the median"),
        Measured("interruptions", float(len(problems) + len(standstills)), "1", len(pairs), why=BROKEN),
    )
    details = {"hosts": list(hosts), "medians_us": [[*row[:3], float(np.median(row[3]))] for row in rows]}
    return Findings(figures, problems, evidence=evidence, details=details)


def proven(low: float, high: float) -> float:
    """The absolute value that an interval proves at least: its end next to 0, or 0 where it holds it. Pure."""
    return min(abs(low), abs(high)) if low * high > 0 else 0.0


def drift(at: Any, values: Any, elapsed: float) -> tuple[float, float, float]:
    """(slope, low, high) over `elapsed` seconds as a share of the median; 0 with fewer than 8 values. Local.

    Robust against outliers. Source: Sen 1968, Journal of the American Statistical Association 63(324).
    """
    import numpy as np
    from scipy.stats import theilslopes

    if len(values) < 8:
        return 0.0, 0.0, 0.0
    found = theilslopes(values, at, 0.95)
    scale = elapsed / float(np.median(values))
    return float(found[0]) * scale, float(found[2]) * scale, float(found[3]) * scale
