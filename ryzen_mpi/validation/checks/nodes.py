"""Several nodes as one machine: Gloo's collectives over all ranks, and the shape of the network of three and four."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from ryzen_mpi.validation.probes import facts
from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, Measured, not_measurable

if TYPE_CHECKING:
    from ryzen_mpi.cluster.world import World

OPERATIONS = {"ring": "ring_all_reduce", "tree": "tree_all_reduce", "allgather": "all_gather", "barrier": "barrier"}
BYTES = 1 << 20
"""Of ring, tree and all-gather: a bucket of gradients; a barrier carries nothing."""
MESSAGE, WINDOWS, WARMUP = 1 << 20, 20, 2
TRIPS, TRIPS_WARMUP = 1000, 100
SLACK, SLOW_SHARE = 1.1, 0.8
PROBES = 64
"""Datagrams each way whose hops are counted."""


@check("gloo_nodes", "E8", "ring, tree, allgather and barrier over Gloo on all ranks", "ranks", 300, 2, 2)
def gloo_nodes(context: Context) -> Findings:
    """Collective."""
    from ryzen_mpi.bench.sides import open_sides
    from ryzen_mpi.validation.probes import calls

    world = context.world
    assert world is not None
    facts.placed(context)
    facts.same_network(context)
    figures, problems, evidence = [], [], []
    wrong = {}
    interface = world.exchange.allgather(_interface(world))  # before a group is made, which sets it by hand
    with open_sides(world, ("gloo",)) as sides:
        side: Any = sides["gloo"]
        for name, operation in OPERATIONS.items():
            context.tell(name)
            size, datatype = (0, "char") if name == "barrier" else (BYTES, "float")
            wrong[name] = calls.checked(world, side, operation, size, datatype)
            samples = calls.timed(world, side, operation, size, datatype)
            what = "no bytes" if not size else f"{size >> 20} MiB"
            figures += facts.call_figures(name, samples.slowest_ns() / 1e3, samples.rounds, f"{what}, slowest rank")
            evidence += facts.disturbance(name, samples)
    for name, (count, total) in wrong.items():
        if count:
            problems.append(
                f"{name}: {count} of {total} {'departures too early' if name == 'barrier' else 'elements wrong'}"
            )
    exact = facts.share("wrong", *map(sum, zip(*wrong.values(), strict=True)), "elements of all operations")
    evidence += [f"rank {rank}: {told}" for rank, told in enumerate(interface) if world.nodes > 1 or rank == 0]
    figures.append(Measured("nodes", float(world.nodes), "1", why=f"{world.size} ranks"))
    return Findings((*figures, exact), problems, evidence=evidence, details={"wrong": wrong, "interface": interface})


def _interface(world: World) -> str:
    from ryzen_mpi.comm.rendezvous import choose_interface
    from ryzen_mpi.config import Distributed

    found = choose_interface(world, Distributed())
    return f"{found.name} {found.address} ({found.reason})"


@check("topology", "E9", "triangles, aggregate and bisection bandwidth, hops of 3 and more nodes", "nodes", 300, 3, 3)
def topology(context: Context) -> Findings:
    """Collective."""
    from ryzen_mpi.validation.probes import wires

    world = context.world
    assert world is not None
    facts.same_network(context)
    hosts = world.exchange.allgather(world.hostname)
    with wires.connected(world) as ends:
        problems = wires.describe(hosts, ends.failed)
        if problems:  # MPI would hang where the network does not carry
            missing = [not_measurable(name, unit, "not all pairs of nodes are connected") for name, unit in _FIGURES]
            return Findings(missing, problems, details={"hosts": hosts})
        hops = count_hops(world, ends)
    found = measure_links(context, world, hosts)
    return judge_topology(found | {"hosts": hosts, "hops": hops})


_FIGURES = (
    *(
        ("triangle_bandwidth", "1"),
        ("triangle_latency", "1"),
        ("aggregate_bandwidth", "Gbit/s"),
        ("aggregate_share", "1"),
    ),
    *(("bisection_bandwidth", "Gbit/s"), ("bisection_share", "1"), ("hops", "1"), ("detours", "1")),
)


def measure_links(context: Context, world: World, hosts: Sequence[str]) -> dict[str, Any]:
    """Latency and bandwidth of every link alone, of all at once, and of every matching. Collective; the same on all."""
    import numpy as np

    from ryzen_mpi.validation.probes import calls, wires

    size = world.size
    latency, one_way = (np.full((size, size), np.nan) for _ in range(2))
    bisections, alone, evidence = [], {}, []
    for round_ in wires.matchings(size):
        for pair in round_:
            context.tell(f"{hosts[pair[0]]} and {hosts[pair[1]]}")
            trips = calls.between(world, "latency", pair, 8, TRIPS, TRIPS_WARMUP)
            evidence += facts.disturbance(f"latency {pair[0]} to {pair[1]}", trips)
            for rank, peer in (pair, pair[::-1]):
                latency[rank, peer] = np.median(trips.times_ns[rank]) / 2e3
                windows = calls.between(world, "bw", (rank, peer), MESSAGE, WINDOWS, WARMUP)
                one_way[rank, peer] = median(calls.gbit_s(windows, rank, MESSAGE))
            both = calls.between(world, "bibw", pair, MESSAGE, WINDOWS, WARMUP)
            alone[pair] = median(calls.gbit_s(both, pair[0], MESSAGE, 2))
        if len(round_) == 1:  # three nodes: nobody else sends meanwhile
            bisections.append({pair: alone[pair] for pair in round_})
            continue
        context.tell(f"{len(round_)} pairs at once")
        together = calls.between(world, "bibw", wires.mine(round_, world.rank), MESSAGE, WINDOWS, WARMUP)
        evidence += facts.disturbance("pairs at once", together)
        bisections.append({pair: median(calls.gbit_s(together, pair[0], MESSAGE, 2)) for pair in round_})
    context.tell("all at once")
    ring = calls.around(world, 1, MESSAGE, WINDOWS, WARMUP)
    windows = zip(*(calls.gbit_s(ring, rank, MESSAGE) for rank in range(size)), strict=True)
    return {
        "latency_us": latency,
        "gbit_s": one_way,
        "alone": alone,
        "bisections": bisections,
        "aggregate": [sum(window) for window in windows],
        "evidence": evidence,
    }


def count_hops(world: World, ends: Any) -> list[list[int | None]]:
    """[from][to]: routers a datagram passes, from the time to live it has left; None where none came. Collective."""
    from ryzen_mpi.validation.probes import datagrams, wires

    heard: dict[int, int] = {}
    for round_ in wires.matchings(world.size):
        pair = wires.mine(round_, world.rank)
        if pair is not None and (peer := sum(pair) - world.rank) in ends.peers:
            link = ends.peers[peer]
            with datagrams.open_socket(ends.address[world.rank]) as data:
                link.sendall(data.getsockname()[1].to_bytes(2, "big"))
                to = ends.address[peer], int.from_bytes(wires.receive(link, 2), "big")
                for sends in (world.rank == pair[0], world.rank != pair[0]):
                    if sends:
                        datagrams.send(data, link, to, PROBES, 1)
                    elif counted := datagrams.count_received(data, link, PROBES, 1).hops:
                        heard[peer] = max(counted)
        world.exchange.allgather(None)
    table = world.exchange.allgather({str(peer): hops for peer, hops in heard.items()})
    return [[None if a == b else table[b].get(str(a)) for b in range(world.size)] for a in range(world.size)]


def judge_topology(found: Mapping[str, Any]) -> Findings:
    """Findings of what was measured between the nodes `found["hosts"]`. Local."""
    import numpy as np

    from ryzen_mpi.validation.probes import triangles

    hosts, speed, latency = found["hosts"], np.asarray(found["gbit_s"]), np.asarray(found["latency_us"])
    evidence = list(found["evidence"])
    figures = []
    for name, matrix in (("bandwidth", speed), ("latency", latency)):
        shapes = dict(triangles.triangles(matrix))
        worst = max(shapes, key=shapes.__getitem__)
        names = ", ".join(hosts[node] for node in worst)
        figures.append(facts.most(f"triangle_{name}", list(shapes.values()), "1", f"deviation from the mean: {names}"))
    off = ~np.eye(len(hosts), dtype=bool)
    usual = float(np.median(speed[off]))
    sums = [sum(row.values()) for row in found["bisections"]]
    narrow = triangles.least_sum([list(row.values()) for row in found["bisections"]])
    pairs = found["bisections"][narrow]
    whole = sum(found["alone"][pair] for pair in pairs)
    across = " and ".join(f"{hosts[a]}-{hosts[b]}" for a, b in pairs)
    figures += [
        facts.middle("aggregate_bandwidth", found["aggregate"], "Gbit/s", "every node sends to the next, all at once"),
        Measured("aggregate_share", median(found["aggregate"]) / (len(hosts) * usual), "1", len(found["aggregate"]),
                 why="of so many times one link alone"),
        Measured("bisection_bandwidth", sums[narrow], "Gbit/s", len(sums), samples=tuple(sums),
                 why=f"both ways, over the narrowest cut: {across}"),
        Measured("bisection_share", sums[narrow] / whole, "1", len(sums), why="of the same links, each alone"),
    ]  # fmt: skip
    evidence += [f"{hosts[a]} to {hosts[b]}: {share:.2g} of the usual bandwidth"
                 for a, b, share in triangles.slow_links(speed, SLOW_SHARE)]  # fmt: skip
    longer = triangles.detours(latency, SLACK)
    evidence += [f"{hosts[a]} to {hosts[b]}: {times:.2g} times slower than over {hosts[over]}"
                 for a, b, over, times in longer]  # fmt: skip
    figures += [_hops(found["hops"], hosts, evidence), Measured(
        "detours", float(len(longer)), "1", len(hosts) * (len(hosts) - 1) // 2,
        why="pairs that a way over a third node would serve quicker")]  # fmt: skip
    table = {"hosts": list(hosts), "latency_us": _rows(latency), "send_mib_s": _rows(speed * 1e9 / 8 / 2**20)}
    bisections = [{f"{a} {b}": value for (a, b), value in row.items()} for row in found["bisections"]]
    return Findings(
        figures, evidence=evidence, details={"pairs": table, "hops": found["hops"], "bisections": bisections}
    )


def _hops(table: Sequence[Sequence[int | None]], hosts: Sequence[str], evidence: list[str]) -> Measured:
    known = {(a, b): hops for a, row in enumerate(table) for b, hops in enumerate(row) if hops is not None}
    if len(known) < len(hosts) * (len(hosts) - 1):
        return not_measurable("hops", "1", "not every node hears every other's datagrams")
    for (a, b), hops in known.items():
        if a < b and hops != known[b, a]:
            evidence.append(f"{hosts[a]} and {hosts[b]}: {hops} routers one way, {known[b, a]} back")
    if len(set(known.values())) > 1:
        far = max(known, key=known.__getitem__)
        evidence.append(f"{hosts[far[0]]} to {hosts[far[1]]} pass {known[far]} routers, others {min(known.values())}")
    return facts.most(
        "hops", [float(hops) for hops in known.values()], "1", "routers on the way, from the time to live"
    )


def _rows(values: Any) -> list[list[float | None]]:
    return [[None if i == j else float(value) for j, value in enumerate(row)] for i, row in enumerate(values)]
