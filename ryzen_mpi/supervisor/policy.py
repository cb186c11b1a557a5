"""What to start next: a pure decision from what has happened so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BACKOFF_S = (0.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds before a new attempt, by the number of attempts in a row that got nowhere."""
STRIKES = 3
"""A node whose ranks caused as many faults is left out, as long as others can do the work."""
HALVE_AFTER = 2
"""Attempts in a row that got nowhere before fewer ranks are tried."""


@dataclass(frozen=True)
class Situation:
    """All that the decision rests on.

    Attributes:
        wanted: ranks a person asked for.
        per_node: most ranks a node takes.
        least: fewest ranks worth starting.
        answering: nodes that answer, in the allocation's order.
        strikes: faults by node.
        fruitless: attempts in a row that ended in a fault without a new checkpoint.
        last: what the last fault was, for people; "" where there was none.
        retries: most fruitless attempts in a row.
    """

    wanted: int
    per_node: int
    least: int
    answering: Sequence[str]
    strikes: Mapping[str, int]
    fruitless: int
    last: str
    retries: int


@dataclass(frozen=True)
class Start:
    """Start `ranks` ranks, `hosts[node]` on each node, after `after_s` seconds; `why` it is not what was asked for."""

    ranks: int
    hosts: dict[str, int]
    after_s: float
    why: str


@dataclass(frozen=True)
class GiveUp:
    """Nothing more can be done without a person: what is wrong and what they can do."""

    why: str
    advice: str


def decide(now: Situation) -> Start | GiveUp:
    """The next attempt."""
    if now.fruitless > now.retries:
        return GiveUp(
            f"{now.fruitless} attempts in a row ended without a new checkpoint; the last: {now.last}",
            "mend the cause and start again with the same --run-dir: it goes on from the newest good checkpoint",
        )
    usable, excluded = usable_nodes(now)
    capacity = len(usable) * now.per_node
    halvings = max(0, now.fruitless - HALVE_AFTER + 1)
    ranks = min(capacity, max(now.least, now.wanted >> halvings))
    if ranks < now.least:
        return GiveUp(
            f"{len(usable)} nodes answer ({', '.join(usable) or 'none'}): room for {capacity} ranks of {now.least}",
            "bring the nodes back, or start with fewer ranks (distributed.min_processes)",
        )
    reasons = []
    if capacity < now.wanted:
        reasons.append(f"{len(usable)} nodes hold {capacity} ranks")
    if excluded:
        reasons.append(f"left out after {STRIKES} faults: {', '.join(excluded)}")
    if halvings and ranks < min(capacity, now.wanted):
        reasons.append(f"{now.fruitless} attempts got nowhere with more")
    return Start(
        ranks, place(ranks, usable, now.per_node), BACKOFF_S[min(now.fruitless, len(BACKOFF_S) - 1)], "; ".join(reasons)
    )


def usable_nodes(now: Situation) -> tuple[list[str], list[str]]:
    """Answering nodes to use, and those left out for their faults: only while the rest can do the whole work."""
    good = [node for node in now.answering if now.strikes.get(node, 0) < STRIKES]
    if len(good) * now.per_node >= now.least and good:
        return good, [node for node in now.answering if node not in good]
    return list(now.answering), []


def place(ranks: int, nodes: Sequence[str], per_node: int) -> dict[str, int]:
    """Ranks by node: even shares over as few nodes as hold them."""
    count = -(-ranks // per_node)
    return {node: len(range(index, ranks, count)) for index, node in enumerate(nodes[:count])}
