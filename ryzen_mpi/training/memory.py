"""What a run needs of a node's memory, reckoned before anything is allocated.

A run that cannot fit is refused with the table rather than killed by the kernel an hour later. `benchmarks/memory.py`
measures how far the figures are from what processes really take.
"""

from __future__ import annotations

from dataclasses import dataclass

from ryzen_mpi.config import Settings
from ryzen_mpi.model.attention import kept_scores, takes_batched
from ryzen_mpi.model.lean import takes_lean
from ryzen_mpi.model.loss import TILE_ELEMENTS, chunk_rows
from ryzen_mpi.model.transformer import parameter_count
from ryzen_mpi.training.zero.buckets import RING
from ryzen_mpi.training.zero.sharded import BUCKET_BYTES
from ryzen_mpi.units import bytes_text

INTERPRETER_BYTES = 175 << 20
"""Of a rank alone: Python with torch, numpy and MPI loaded, before the model."""
LIBRARIES_BYTES = 165 << 20
"""Of a node: the pages of libraries that its ranks share."""

SHARING_BACKENDS = ("auto", "mpi")
"""Over which the ranks of a node share memory, as far as can be known beforehand."""
_ITEM = {"float32": 4, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True)
class Part:
    """Bytes for one purpose: `rank` of every rank alone, `node` once a node, shared by its ranks."""

    name: str
    rank: int = 0
    node: int = 0


@dataclass(frozen=True)
class Need:
    """What a node of `ranks` ranks needs.

    Attributes:
        parts: by purpose.
        saving: what a rank needs on top while a checkpoint is written: a copy (rank 0 under stage 0, else all).
    """

    ranks: int
    parts: tuple[Part, ...]
    saving: Part

    @property
    def rank(self) -> int:
        """Bytes of one rank, its share of what is common included."""
        return sum(part.rank for part in self.parts) + sum(part.node for part in self.parts) // self.ranks

    @property
    def steady(self) -> int:
        """Bytes of the node while it trains."""
        return sum(part.rank * self.ranks + part.node for part in self.parts)

    @property
    def node(self) -> int:
        """Bytes of the node at most: while it saves."""
        return self.steady + self.saving.rank * self.ranks + self.saving.node

    def of(self, name: str) -> Part:
        """The part of that name."""
        return next(part for part in self.parts if part.name == name)

    def text(self) -> str:
        """The node's parts in a line."""
        sizes = {part.name: part.rank * self.ranks + part.node for part in (*self.parts, self.saving)}
        return ", ".join(f"{name} {bytes_text(size)}" for name, size in sizes.items() if size)


def need(settings: Settings, ranks: int, nodes: int = 1, domains: int = 1) -> Need:
    """What each of `nodes` nodes needs for `ranks` ranks on `domains` NUMA domains of it."""
    return Need(
        ranks,
        (
            *_state(settings, ranks, nodes, domains),
            Part("error feedback", node=_feedback(settings, nodes)),
            Part("activations", activations(settings)),
            Part("logits", _logits(settings)),
            Part("interpreter", INTERPRETER_BYTES, LIBRARIES_BYTES),
        ),
        _saving(settings, ranks, nodes),
    )


def _state(settings: Settings, ranks: int, nodes: int, domains: int) -> list[Part]:
    """Weights, gradients and optimiser."""
    count, item = parameter_count(settings), _ITEM[settings.hardware.dtype]
    wide, stage = max(4, item), settings.hardware.zero_stage
    one = _largest_parameter(settings) * item  # backward makes each gradient before it is taken over
    if not stage:
        narrow = item if item < wide else 0
        return [
            Part("weights", count * narrow),
            Part("gradients", count * wide * (1 if settings.training.virtual_ranks == 1 else 2) + one),
            Part("optimizer", 3 * count * wide),
            Part("arenas"),
        ]
    shared = settings.distributed.arena and settings.distributed.backend in SHARING_BACKENDS  # else a `PlainGround`
    per = settings.hardware.weights_per if shared else "rank"
    copies = {"node": 1, "numa": min(domains, ranks), "rank": ranks}[per]
    across = count * wide if nodes > 1 and shared else 0  # of a slice, what other nodes own
    own, narrow = count * wide // nodes, item if shared else wide
    whole = count * wide if stage == 1 else RING * min(BUCKET_BYTES // wide, count) * narrow
    return [
        Part("weights", node=copies * count * item),
        Part("gradients", rank=one, node=own + across),
        Part("optimizer", node=3 * own),
        Part("arenas", rank=whole),
    ]


def _feedback(settings: Settings, nodes: int) -> int:
    """Of a node: what compression has not sent yet, as large as the gradient."""
    keeps = nodes > 1 and settings.distributed.compression in ("powersgd", "topk")
    return keeps * parameter_count(settings) * max(4, _ITEM[settings.hardware.dtype])


def _saving(settings: Settings, ranks: int, nodes: int) -> Part:
    copy = 3 * parameter_count(settings) * max(4, _ITEM[settings.hardware.dtype])
    return Part("checkpoint copy", node=copy if settings.hardware.zero_stage == 0 else copy // nodes)


def _largest_parameter(settings: Settings) -> int:
    """Elements."""
    model = settings.model
    return model.embedding_dim * max(model.vocab_size, model.feed_forward_dim, 3 * model.embedding_dim)


def _logits(settings: Settings) -> int:
    model, item = settings.model, _ITEM[settings.hardware.dtype]
    rows = settings.training.batch_size * model.seq_length
    chunk = min(rows, chunk_rows(model.vocab_size, model.embedding_dim))
    sums = (max(4, item) if chunk < rows else 0) + item  # of several chunks, and a chunk's own
    head = model.vocab_size * model.embedding_dim * sums
    return chunk * model.vocab_size * item + TILE_ELEMENTS * max(4, item) + head


def activations(settings: Settings, recompute: bool | None = None) -> int:
    """Bytes kept for backward: what each operation of a block saves, or the block's input alone when recomputing.

    `recompute`: in place of hardware.gradient_checkpoint.
    """
    model, hardware = settings.model, settings.hardware
    recompute = hardware.gradient_checkpoint if recompute is None else recompute
    width, length = model.embedding_dim, model.seq_length
    rows = settings.training.batch_size * length
    block = rows * (6 * width + model.feed_forward_dim)  # both norms' inputs, q k v, attention's output, GELU's input
    if not takes_lean(width):
        block += rows * (2 * width + model.feed_forward_dim)  # and their results
    if takes_batched(length, hardware.dtype, hardware.attention):
        block += settings.training.batch_size * model.num_heads * kept_scores(length)
    kept = model.num_layers * (rows * width if recompute else block) + (block if recompute else 0)
    within = rows * (3 * width + 2 * model.feed_forward_dim)  # of the block that backward is in
    return _ITEM[hardware.dtype] * (kept + within)
