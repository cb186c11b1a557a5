"""How fast the nodes talk to one another, and whether all pairs of ranks do alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

from ryzen_mpi.validation.probes import counters, facts
from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

if TYPE_CHECKING:
    from ryzen_mpi.bench.pairs import Matrix
    from ryzen_mpi.cluster.world import World

IPERF_S = 3.0
MESSAGE, SMALL_MESSAGE = 1 << 20, 1 << 16
SLOW_WINDOW_S = 1.0
"""A window of 64 messages of 1 MiB that takes longer is made of small ones: at 50 Mbit/s it takes 11 s, 42 times."""
WINDOWS, WINDOWS_WARMUP = 20, 2
TRIPS, TRIPS_WARMUP = 2000, 200
SLOW_SHARE = 0.8
"""Of the median of its kind; a link below it is named in the evidence."""
BEYOND = 1.02
"""Times the card's own rate: more than rounding explains."""


@check("network_speed", "E7", "bandwidth between all pairs of nodes, iperf3's and MPI's", "nodes", 300, 2, 2)
def network_speed(context: Context) -> Findings:
    """Collective. `iperf_s`: of iperf3, each direction of each pair."""
    from ryzen_mpi.validation.probes import iperf
    from ryzen_mpi.validation.probes.calls import between, gbit_s

    world = context.world
    assert world is not None
    seconds = facts.number(context, "iperf_s", IPERF_S)
    facts.same_network(context)
    hosts = world.exchange.allgather(world.hostname)
    pairs = list(permutations(range(world.size), 2))
    mpi, evidence = {}, []
    for pair in pairs:
        context.tell(f"MPI {hosts[pair[0]]} to {hosts[pair[1]]}")
        size = window_bytes(between(world, "bw", pair, SMALL_MESSAGE, 1, 0).times_ns.max() / 1e9)
        samples = between(world, "bw", pair, size, WINDOWS, WINDOWS_WARMUP)
        mpi[pair] = gbit_s(samples, pair[0], size)
        evidence += facts.disturbance(f"MPI {hosts[pair[0]]} to {hosts[pair[1]]}", samples)
    figures = [_slowest("mpi_speed", mpi, hosts, "windows of 64 messages over MPI")]
    without = [hosts[rank] for rank, there in enumerate(world.exchange.allgather(iperf.is_here())) if not there]
    impossible: list[str] = []
    if without:
        figures.insert(0, _slowest("speed", mpi, hosts, f"over MPI: no iperf3 on {', '.join(without)}"))
        return Findings(figures, evidence=evidence, details={"hosts": hosts, "mpi_gbit_s": _table(mpi)})
    speeds, problems = _iperf_all(context, world, pairs, hosts, seconds)
    if speeds:
        figures.insert(0, _slowest("speed", speeds, hosts, f"iperf3, {iperf.STREAMS} streams, what was received"))
        impossible = beyond_the_card(world, speeds, hosts)
    else:
        figures.insert(0, not_measurable("speed", "Gbit/s", problems[0]))
    evidence += [f"{hosts[a]} to {hosts[b]}: {min(rates):.3g} to {max(rates):.3g} Gbit/s by iperf3"
                 for (a, b), rates in speeds.items()]  # fmt: skip
    details = {"hosts": hosts, "mpi_gbit_s": _table(mpi), "iperf_gbit_s": _table(speeds)}
    return Findings(figures, problems, impossible, evidence, details)


def window_bytes(small_s: float) -> int:
    """Of a message of the windows, where a window of small ones takes so long: 1 MiB, less on a slow link. Pure."""
    return SMALL_MESSAGE if small_s * MESSAGE / SMALL_MESSAGE > SLOW_WINDOW_S else MESSAGE


def _iperf_all(
    context: Context, world: World, pairs: Sequence[tuple[int, int]], hosts: Sequence[str], seconds: float
) -> tuple[dict[tuple[int, int], tuple[float, ...]], list[str]]:
    """Gbit/s of all intervals by pair, and what went wrong. Collective."""
    from ryzen_mpi.comm.rendezvous import choose_interface
    from ryzen_mpi.config import Distributed
    from ryzen_mpi.validation.probes import iperf

    addresses = world.exchange.allgather(choose_interface(world, Distributed()).address)
    speeds, problems = {}, []
    for first, second in pairs:
        context.tell(f"iperf3 {hosts[first]} to {hosts[second]}")
        port = world.exchange.allgather(iperf.free_port(addresses[world.rank]) if world.rank == second else 0)[second]
        server = iperf.serve(addresses[second], port) if world.rank == second else None
        found = None
        if world.rank == first:
            speed = iperf.measure(addresses[first], addresses[second], port, seconds)
            found = [speed.intervals, speed.why]
        intervals, why = world.exchange.allgather(found)[first]
        if server is not None:
            iperf.end(server)
        if why:
            problems.append(f"{hosts[first]} to {hosts[second]}: {why}")
        else:
            speeds[first, second] = tuple(intervals)
    return speeds, problems


def beyond_the_card(world: World, speeds: dict[tuple[int, int], tuple[float, ...]], hosts: Sequence[str]) -> list[str]:
    """Pairs that were faster than their network card: what was measured did not cross the network. Collective."""
    from ryzen_mpi.comm.rendezvous import choose_interface
    from ryzen_mpi.config import Distributed

    cards = world.exchange.allgather(counters.speed_mbit_s(choose_interface(world, Distributed()).name))
    found = []
    for pair, rates in speeds.items():
        known = [cards[rank] for rank in pair if cards[rank]]
        middle = sorted(rates)[len(rates) // 2]
        if known and middle > BEYOND * min(known) / 1e3:
            found.append(
                f"{hosts[pair[0]]} to {hosts[pair[1]]}: {middle:.4g} Gbit/s over a card of {min(known) / 1e3:g} Gbit/s"
            )
    return found


def _slowest(name: str, speeds: dict[tuple[int, int], Any], hosts: Sequence[str], how: str) -> Measured:
    """The figure of the direction with the lowest median."""
    from statistics import median

    (first, second), rates = min(speeds.items(), key=lambda item: median(item[1]))
    return facts.middle(
        name, rates, "Gbit/s", f"{hosts[first]} to {hosts[second]}, the slowest of {len(speeds)}; {how}"
    )


def _table(values: dict[tuple[int, int], Any]) -> dict[str, list[float]]:
    return {f"{first} {second}": list(row) for (first, second), row in values.items()}


@check("network_latency", "E7", "round trip between all pairs of nodes, over MPI and TCP", "nodes", 180, 2, 2)
def network_latency(context: Context) -> Findings:
    """Collective."""
    from ryzen_mpi.validation.probes import wires
    from ryzen_mpi.validation.probes.calls import between

    world = context.world
    assert world is not None
    facts.same_network(context)
    hosts = world.exchange.allgather(world.hostname)
    pairs = [pair for round_ in wires.matchings(world.size) for pair in round_]
    mpi, evidence = {}, []
    for pair in pairs:
        context.tell(f"{hosts[pair[0]]} and {hosts[pair[1]]}")
        mpi[pair] = between(world, "latency", pair, 8, TRIPS, TRIPS_WARMUP)
        evidence += facts.disturbance(f"MPI between {hosts[pair[0]]} and {hosts[pair[1]]}", mpi[pair])
    slowest = max(pairs, key=lambda pair: float(_trip_median(mpi[pair].times_ns[pair[0]])))
    names = f"{hosts[slowest[0]]} and {hosts[slowest[1]]}, the slowest of {len(pairs)}"
    times = mpi[slowest].times_ns[slowest[0]] / 1e3
    figures = facts.call_figures("round_trip", times, mpi[slowest].rounds, f"8 bytes over MPI, {names}")
    with wires.connected(world) as ends:
        problems = wires.describe(hosts, ends.failed)
        tcp = {pair: _tcp(world, ends, pair) for pair in pairs}
    known = {pair: values for pair, values in tcp.items() if values}
    if known:
        worst = max(known, key=lambda pair: sorted(known[pair])[len(known[pair]) // 2])
        figures.append(
            facts.middle("tcp_round_trip_p50", known[worst][-200:], "us", f"{hosts[worst[0]]} and {hosts[worst[1]]}")
        )
    else:
        figures.append(not_measurable("tcp_round_trip_p50", "us", "no pair of nodes meets over TCP"))
    evidence += [
        f"{hosts[a]} and {hosts[b]}: {_trip_median(mpi[a, b].times_ns[a]) / 1e3:.4g} us over MPI" for a, b in pairs
    ]
    return Findings(figures, problems, evidence=evidence, details={"hosts": hosts})


def _trip_median(times: Any) -> Any:
    import numpy as np

    return np.median(times)


def _tcp(world: World, ends: Any, pair: tuple[int, int]) -> list[float]:
    """Microseconds of round trips over the connection of `pair`; none where it broke. Collective."""
    from ryzen_mpi.validation.probes import wires

    times: list[float] = []
    if world.rank in pair and (peer := sum(pair) - world.rank) in ends.peers:
        try:
            times = wires.round_trips(ends.peers[peer], world.rank == pair[0], 500)
        except OSError:
            times = []
    return world.exchange.allgather([round(value, 3) for value in times])[pair[0]]


@check("all_pairs", "E7", "every pair of ranks: connected, latency, bandwidth, symmetry", "ranks", 600, least_ranks=2)
def all_pairs(context: Context) -> Findings:
    """Collective."""
    from ryzen_mpi.bench import catalog, options
    from ryzen_mpi.bench.pairs import run_pairs
    from ryzen_mpi.validation.probes import wires

    world = context.world
    assert world is not None
    facts.placed(context)
    facts.same_network(context)
    hosts = world.exchange.allgather(world.hostname)
    nodes = world.exchange.allgather(world.node)
    with wires.connected(world) as ends:
        problems, total = wires.describe(hosts, ends.failed), world.size * (world.size - 1) // 2
    met = Measured("connected", (total - len(problems)) / total, "1", total, why="of all pairs of ranks, over TCP")
    if problems:  # MPI would hang where the network does not carry
        why = "not all pairs of ranks are connected"
        missing = [not_measurable(name, unit, why) for name, unit in _PAIR_FIGURES]
        return Findings((met, *missing), problems, details={"hosts": hosts})
    benchmark = catalog.find("all_pairs")
    asked = options.parse(benchmark, sizes="8:1M", validate=True)
    matrix = run_pairs(world, benchmark, asked, context.tell).matrices["raw"]
    return judge_pairs(matrix, nodes, hosts, met)


_PAIR_FIGURES = (
    *(("latency_worst", "us"), ("latency_spread", "1"), ("slowest_link", "1"), ("bandwidth_asymmetry", "1")),
)


def judge_pairs(matrix: Matrix, nodes: Sequence[int], hosts: Sequence[str], met: Measured) -> Findings:
    """Findings of a matrix of all pairs; pairs of one node and pairs of two are compared among themselves. Pure."""
    import numpy as np

    from ryzen_mpi.bench.output import disturbed_mark

    latency, speed = np.asarray(matrix.latency_us), np.asarray(matrix.send_mib_s)
    off = ~np.eye(len(nodes), dtype=bool)
    within = np.equal.outer(np.asarray(nodes), np.asarray(nodes)) & off
    spread, slowest, asymmetry, evidence = [], [], [], []
    for kind, mask in (("on one node", within), ("between nodes", off & ~within)):
        if not mask.any():
            continue
        usual_us, usual = np.median(latency[mask]), np.median(speed[mask])
        spread.append(float(latency[mask].max() / usual_us))
        slowest.append(float(speed[mask].min() / usual))
        asymmetry.append(float(np.max((np.abs(speed - speed.T) / (speed + speed.T) * 2)[mask])))
        evidence.append(f"{kind}: median {usual_us:.4g} us and {usual:.4g} MiB/s of {int(mask.sum())} directions")
        for i, j in np.argwhere(mask):
            if speed[i, j] < SLOW_SHARE * usual or latency[i, j] > usual_us / SLOW_SHARE:
                evidence.append(
                    f"rank {i} ({hosts[i]}) to {j} ({hosts[j]}): {latency[i, j]:.4g} us, {speed[i, j]:.4g} MiB/s: "
                    f"{latency[i, j] / usual_us:.2g} and {speed[i, j] / usual:.2g} times the median {kind}"
                )
    evidence += [
        f"disturbed: {what}: {disturbed_mark(True, waited, others)}" for what, waited, others in matrix.disturbed
    ]
    problems = ["a message between two ranks came with wrong contents"] if matrix.valid is False else []
    pairs = np.triu(off)
    figures = (
        met,
        facts.most(
            "latency_worst", latency[pairs].tolist(), "us", "half a round trip of 8 bytes, median of every pair"
        ),
        facts.most(
            "latency_spread", spread, "1", "the slowest pair over the median of its kind (in a node, between nodes)"
        ),
        facts.least(
            "slowest_link", slowest, "1", "the slowest direction over the median of its kind, all sending at once"
        ),
        facts.most("bandwidth_asymmetry", asymmetry, "1", "largest difference of a pair's directions over their mean"),
    )
    table = {
        "hosts": list(hosts),
        "nodes": list(nodes),
        "latency_us": _nullable(latency),
        "send_mib_s": _nullable(speed),
    }
    return Findings(figures, problems, evidence=evidence, details={"pairs": table})


def _nullable(values: Any) -> list[list[float | None]]:
    """Rows of a matrix, None on the diagonal. Pure."""
    return [[None if i == j else float(value) for j, value in enumerate(row)] for i, row in enumerate(values)]
