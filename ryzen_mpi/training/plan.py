"""Whether a configuration fits, what a step of it computes and sends, and the smallest change that makes it fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.model.transformer import parameter_count
from ryzen_mpi.training.memory import SHARING_BACKENDS, Need, need
from ryzen_mpi.units import bytes_text

MOST_NODES = 1024


@dataclass(frozen=True)
class Work:
    """Of one step over all ranks.

    Attributes:
        flops: floating-point operations of forward and backward, 6 a matrix parameter and token, and attention's
            (Kaplan et al. 2020, table 1; Narayanan et al. 2021, eq. 2); a third more where activations are recomputed.
        within_bytes: read and written by the ranks of a node for the gradients and weights of others.
        between_bytes: that leave a node.
    """

    flops: float
    within_bytes: int
    between_bytes: int


@dataclass(frozen=True)
class Change:
    """A way to make a configuration fit: `text`, and what comes of it."""

    text: str
    settings: Settings
    nodes: int
    need: Need


def work(settings: Settings, ranks: int, nodes: int) -> Work:
    """What a step takes on `nodes` nodes of `ranks` ranks."""
    model, hardware = settings.model, settings.hardware
    count, width = parameter_count(settings), model.embedding_dim
    looked_up = (settings.max_positions + (0 if model.tied_head else model.vocab_size)) * width  # not multiplied
    tokens = settings.global_batch(ranks * nodes) * model.seq_length
    attention = 12 * model.num_layers * model.seq_length * width
    flops = tokens * (6.0 * (count - looked_up) + attention) * (4 / 3 if hardware.gradient_checkpoint else 1)
    item = {"float32": 4, "bfloat16": 2, "float64": 8}[hardware.dtype]
    wide = max(4, item)
    if not hardware.zero_stage:
        return Work(flops, 2 * ranks * count * wide, _gradient_between(settings, count, wide, ranks, nodes))
    rounds = -(-settings.global_batch(ranks * nodes) // (ranks * nodes * settings.training.batch_size))
    gradient = ranks * count * (wide if hardware.zero_stage == 1 else item * rounds)
    between = _gradient_between(settings, count, wide, ranks, nodes) + _share(nodes, count * item)
    return Work(flops, gradient + count * item, between)


def _gradient_between(settings: Settings, count: int, wide: int, ranks: int, nodes: int) -> int:
    """What a node sends of gradients: all sums are everybody's under stage 0, their owners' with ZeRO."""
    chosen, directions = settings.distributed, 1 if settings.hardware.zero_stage else 2
    if chosen.compression == "topk":  # four bytes a value, to the owners or to all
        return int(4 * chosen.compression_share * count * (nodes - 1)) // (nodes if directions == 1 else 1)
    if chosen.compression == "powersgd":
        side = math.isqrt(count // (ranks * nodes))
        return 4 * side * min(side, chosen.compression_rank) * wide * ranks * (nodes - 1)
    return _share(nodes, directions * count * (wide if chosen.compression == "none" else 2))


def _share(nodes: int, size: int) -> int:
    """Of a reduce-scatter or an all-gather of `size` bytes, what a node sends (Patarasuk and Yuan, 2009)."""
    return size * (nodes - 1) // nodes


def check_fits(settings: Settings, ranks: int, nodes: int, available_bytes: int, reason: str, domains: int = 1) -> Need:
    """What this node needs. Raises UserError, with the smallest change that helps, where it has not got it.

    Args:
        ranks: on this node.
        available_bytes: memory the node can give, and `reason` where that was read.
        domains: NUMA domains its ranks run on.
    """
    wanted = need(settings, ranks, nodes, domains)
    if wanted.node <= available_bytes:
        return wanted
    change = smallest_change(settings, ranks, nodes, available_bytes, domains)
    raise UserError(
        f"the model does not fit: {ranks} ranks on this node need {bytes_text(wanted.node)} ({wanted.text()}), and "
        f"{bytes_text(available_bytes)} are available ({reason})",
        f"{change.text} needs {bytes_text(change.need.node)} a node" if change else
        "no stage, accumulation, recomputing or number of nodes makes it fit: fewer ranks a node, or a smaller model",
    )  # fmt: skip


def smallest_change(
    settings: Settings, ranks: int, nodes: int, available_bytes: int, domains: int = 1
) -> Change | None:
    """The first of `changes` that fits into `available_bytes` a node."""
    found = changes(settings, ranks, nodes, domains)
    return next((change for change in found if change.need.node <= available_bytes), None)


def changes(settings: Settings, ranks: int, nodes: int, domains: int = 1) -> Iterator[Change]:
    """Ways to need less, those that cost least first: alone, then together, then on more nodes."""
    stages = [{"hardware.zero_stage": stage} for stage in (1, 2) if stage > settings.hardware.zero_stage]
    smaller = list(_smaller_batches(settings, ranks * nodes))
    recompute = [] if settings.hardware.gradient_checkpoint else [{"hardware.gradient_checkpoint": True}]
    shared = _sharing(settings)
    alone = shared if settings.hardware.zero_stage else []
    for change in (*alone, *stages, *smaller[:1], *recompute, *smaller[1:]):
        yield _changed(settings, change, ranks, nodes, domains)
    least: dict[str, object] = {}
    for change in (*shared, *stages[-1:], *recompute, *smaller):
        least |= change
        yield _changed(settings, least, ranks, nodes, domains)
    while (nodes := 2 * nodes) <= MOST_NODES:
        yield _changed(settings, least, ranks, nodes, domains)


def _sharing(settings: Settings) -> list[dict[str, object]]:
    """What keeps a node from holding the weights once."""
    found: dict[str, object] = {}
    if settings.hardware.weights_per != "node":
        found["hardware.weights_per"] = "node"
    if settings.distributed.backend not in SHARING_BACKENDS:
        found["distributed.backend"] = "mpi"
    if not settings.distributed.arena:
        found["distributed.arena"] = True
    return [found] if found else []


def _smaller_batches(settings: Settings, ranks: int) -> Iterator[dict[str, object]]:
    """The same global batch in smaller micro-batches."""
    whole, size = settings.global_batch(ranks), settings.training.batch_size
    while size > 1:
        size = (size + 1) // 2
        yield {"training.batch_size": size, "training.global_batch": whole}


def _changed(settings: Settings, change: dict[str, object], ranks: int, nodes: int, domains: int) -> Change:
    tree = settings.model_dump()
    for key, value in change.items():
        section, _, name = key.partition(".")
        tree[section][name] = value
    text = " ".join(f"{key}={str(value).lower()}" for key, value in change.items())
    made = Settings.model_validate(tree)
    wanted = need(made, ranks, nodes, domains)
    return Change(f"{text} on {nodes} nodes" if nodes > 1 else text, made, nodes, wanted)
