"""The simulation by the book: every rank's clock, step by step and message by message.

It teaches what `simulate` reckons in closed form, and a test holds the two together. Hours at 4096 ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ryzen_mpi.config import Settings
from ryzen_mpi.scaling.collective import PIECE_BYTES
from ryzen_mpi.scaling.draws import Values
from ryzen_mpi.scaling.simulate import Cluster, reduction, step, traffic


def event_by_event(
    values: Values, settings: Settings, cluster: Cluster, ranks: int, factors: Sequence[Sequence[float]]
) -> list[float]:
    """Seconds of each step; `factors` [steps][ranks]: how much longer than usual a rank computes. Direct exchange."""
    usual, rest_s, node_s, messages, message_s = _figures(values, settings, cluster, ranks)
    nodes, cores, in_turn = _nodes(cluster, ranks), _cores(cluster, ranks), cluster.turns(ranks)[0]
    clock, seconds = [0.0] * ranks, []
    for factor in factors:
        began = max(clock)
        for members in cores:  # everybody computes; those on one core end together
            for rank in members:
                clock[rank] = began + usual * sum(factor[other] for other in members) / in_turn
        for members in nodes:  # the node adds up, each rank its slice
            _meet(clock, members, node_s / 2)
        for number in range(messages):  # to the next node, the one after, ...
            shift = number % max(1, len(nodes) - 1) + 1
            ready = [clock[members[0]] for members in nodes]
            for here, members in enumerate(nodes):
                arrived = max(ready[here], ready[(here - shift) % len(nodes)]) + message_s
                for rank in members:
                    clock[rank] = arrived
        for members in nodes:  # and takes the sums of the others' slices
            _meet(clock, members, node_s / 2)
        _meet(clock, range(ranks), rest_s)  # all agree
        seconds.append(max(clock) - began)
    return seconds


def _nodes(cluster: Cluster, ranks: int) -> list[list[int]]:
    return [list(range(ranks))[n * cluster.per_node : (n + 1) * cluster.per_node] for n in range(cluster.nodes(ranks))]


def _cores(cluster: Cluster, ranks: int) -> list[list[int]]:
    """Ranks by the core that they take turns on, or by the cores that they float over together."""
    if cluster.turns(ranks)[0] == 1:
        return [[rank] for rank in range(ranks)]
    machines = [list(range(ranks))] if cluster.one_machine else _nodes(cluster, ranks)
    if cluster.floating:
        return machines
    cores = cluster.cores // cluster.threads
    return [part.tolist() for there in machines for part in np.array_split(there, cores) if part.size]


def _meet(clock: list[float], members: Sequence[int], seconds: float) -> None:
    """All wait for the last, and then take `seconds`."""
    last = max(clock[rank] for rank in members)
    for rank in members:
        clock[rank] = last + seconds


def _figures(
    values: Values, settings: Settings, cluster: Cluster, ranks: int
) -> tuple[float, float, float, int, float]:
    """Usual seconds, agreement and rest, inside a node, messages between nodes, and seconds of one. Pure."""
    whole, nodes = step(values, settings, cluster, ranks), cluster.nodes(ranks)
    node_s, _ = reduction(values, settings, cluster, ranks)
    if nodes == 1:
        return whole.compute_s, whole.rest_s, node_s, 0, 0.0
    _, _, size = traffic(settings, cluster.fullest(ranks), nodes)
    pieces = max(1, math.ceil(size / PIECE_BYTES))
    messages = 2 * pieces * (nodes - 1)  # a part to each other node and the sums back
    message_s = cluster.link.latency_s + size / pieces / nodes * cluster.link.s_per_byte
    return whole.compute_s, whole.rest_s, node_s, messages, message_s


def closed(
    values: Values, settings: Settings, cluster: Cluster, ranks: int, factors: Sequence[Sequence[float]]
) -> np.ndarray:
    """[steps] the same in one expression: the slowest core, and what is done together."""
    whole, cores, in_turn = step(values, settings, cluster, ranks), _cores(cluster, ranks), cluster.turns(ranks)[0]
    sums = np.stack([np.asarray(factors)[:, members].sum(axis=1) for members in cores])
    return whole.compute_s * sums.max(axis=0) / in_turn + whole.together_s
