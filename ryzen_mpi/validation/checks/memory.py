"""Whether the memory a rank is promised is there, and keeps what is written to it."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ryzen_mpi.units import bytes_text
from ryzen_mpi.validation.probes import facts
from ryzen_mpi.validation.registry import Context, check
from ryzen_mpi.validation.result import Findings, not_measurable

GB = 1e9
WANTED_BYTES = 64e9
"""Of a rank, as the phases have it (E1)."""
RESERVE_BYTES, RESERVE_SHARE = 1 << 30, 0.05
"""Of a node, kept back for the system and for what else runs: the larger of the two."""
RESIDENT_LEAST = 0.99
OOM_SCORE = Path("/proc/self/oom_score_adj")


@check("memory", "E1", "the memory of every rank, every page touched and read back", "ranks", limit_s=900)
def memory(context: Context) -> Findings:
    """Collective."""
    from ryzen_mpi.cluster.topology import read_memory
    from ryzen_mpi.validation.probes import memory as probe

    world = context.world
    assert world is not None
    wanted = int(facts.number(context, "bytes_per_rank", WANTED_BYTES))
    facts.placed(context)
    with suppress(OSError):  # should the node run short after all, this process ends and no other
        OOM_SCORE.write_text("1000")
    reserve = int(max(RESERVE_BYTES, RESERVE_SHARE * read_memory().total_bytes))
    told = world.exchange.allgather([world.node, probe.spare_bytes()])
    spare = min(left for node, left in told if node == world.node)
    room = max(0, spare - reserve) // world.local_size
    size = whole_pages(min(wanted, room))
    touched = probe.touch(size, probe.spare_bytes, reserve) if size else probe.Touched()
    mine = vars(touched) | {
        "rank": world.rank,
        "host": world.hostname,
        "node": world.node,
        "capped": "" if size >= whole_pages(wanted) else (
            f"{bytes_text(spare)} are left on the node, {bytes_text(reserve)} are kept back, "
            f"{world.local_size} rank(s) share the rest"
        ),
    }  # fmt: skip
    return judge_memory(world.exchange.allgather(mine), wanted)


def whole_pages(size: int) -> int:
    """The bytes of the pages that `size` fills; one at least. Pure."""
    return max(1, size // mmap.PAGESIZE) * mmap.PAGESIZE if size > 0 else 0


def judge_memory(ranks: Sequence[Mapping[str, Any]], wanted: int) -> Findings:
    """Findings of all ranks' facts. Pure."""
    problems, evidence = [], []
    for rank in ranks:
        who = f"rank {rank['rank']} on {rank['host']}"
        if rank["wrong_words"]:
            problems.append(f"{who}: {rank['wrong_words']} words are not as they were written: {rank['wrong'][0]}")
            evidence += [f"{who}: {line}" for line in rank["wrong"][1:]]
        if rank["bytes"] and rank["resident_bytes"] < RESIDENT_LEAST * rank["bytes"]:
            problems.append(
                f"{who}: of {bytes_text(rank['bytes'])} that were touched {bytes_text(rank['resident_bytes'])} stayed "
                f"in memory: the node swaps"
            )
        short = rank["stopped"] or rank["capped"]
        if short:
            evidence.append(f"{who}: touched {bytes_text(rank['bytes'])} of {bytes_text(wanted)}: {short}")
    touched = [rank["bytes"] / GB for rank in ranks]
    shares = [rank["bytes"] / whole_pages(wanted) for rank in ranks]
    wrong = sum(rank["wrong_words"] for rank in ranks)
    words = 2 * sum(rank["bytes"] for rank in ranks) // 8
    return Findings(
        (
            facts.least("touched_per_rank", touched, "GB", f"10^9 bytes, of {wanted / GB:.6g} wanted; all at once"),
            facts.least("touched_share", shares, "1", "of what was wanted"),
            facts.share("wrong_words", wrong, words, "8 bytes each, read back twice"),
            _bandwidth(ranks),
        ),
        problems,
        evidence=evidence,
        details={"ranks": [dict(rank) for rank in ranks]},
    )  # fmt: skip


def _bandwidth(ranks: Sequence[Mapping[str, Any]]) -> Any:
    """Of writing to memory that is there, all ranks of a node at once; the node with the least."""
    nodes: dict[int, float] = {}
    for rank in ranks:
        if rank["write_s"] <= 0:
            return not_measurable("write_bandwidth", "GB/s", "a rank could touch nothing")
        nodes[rank["node"]] = nodes.get(rank["node"], 0.0) + rank["bytes"] / GB / rank["write_s"]
    return facts.least("write_bandwidth", list(nodes.values()), "GB/s", "a node's ranks together, one thread each")
