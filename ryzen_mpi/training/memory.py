"""What a run needs of a node's memory, reckoned before anything is allocated.

A run that cannot fit is refused with the table rather than killed by the kernel an hour later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.model.attention import takes_batched
from ryzen_mpi.model.loss import CHUNK_ELEMENTS, LEAST_ROWS, TILE_ELEMENTS
from ryzen_mpi.model.transformer import parameter_count
from ryzen_mpi.units import bytes_text

INTERPRETER_BYTES = 330 << 20
"""Python with torch, numpy and MPI loaded, resident, before the model."""

_ITEM = {"float32": 4, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True)
class Need:
    """Bytes one rank needs, by what for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    checkpoint_copy: int
    interpreter: int = INTERPRETER_BYTES

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def rows(self) -> list[tuple[str, str]]:
        """(what, size) a line, for a table."""
        return [(name.replace("_", " "), bytes_text(size)) for name, size in vars(self).items()]


def need(settings: Settings, rank: int = 0) -> Need:
    """Bytes rank `rank` needs under stage 0: every rank holds everything; rank 0 also a copy that is being saved."""
    parameters = parameter_count(settings)
    item = _ITEM[settings.hardware.dtype]
    wide = max(4, item)
    model, batch = settings.model, settings.training.batch_size
    rows = batch * model.seq_length
    chunk = min(rows, max(LEAST_ROWS, CHUNK_ELEMENTS // model.vocab_size)) * model.vocab_size
    head_gradient = model.vocab_size * model.embedding_dim * (wide + item)
    return Need(
        weights=parameters * (wide + (item if item < wide else 0)),
        gradients=parameters * wide,
        optimizer=2 * parameters * wide,
        activations=_activations(settings, rows, item),
        logits=chunk * item + TILE_ELEMENTS * wide + head_gradient,
        checkpoint_copy=3 * parameters * wide if rank == 0 else 0,
    )


def _activations(settings: Settings, rows: int, item: int) -> int:
    """Bytes kept for backward: what each operation of a block saves, or the block's input alone when recomputing."""
    model, hardware = settings.model, settings.hardware
    width, length = model.embedding_dim, model.seq_length
    block = 9 * width + 2 * model.feed_forward_dim  # norms' inputs and outputs, q k v, attention's output, feed-forward
    if takes_batched(length, hardware.dtype, hardware.attention):
        block += model.num_heads * length
    kept = model.num_layers * (width if hardware.gradient_checkpoint else block)
    transient = block if hardware.gradient_checkpoint else 0
    return rows * item * (kept + transient + 3 * width)


def check_fits(settings: Settings, node_ranks: Sequence[int], available_bytes: int, reason: str) -> Need:
    """The need of this node's largest rank. Raises UserError where the node's ranks together exceed what is there.

    Args:
        node_ranks: the ranks of one node.
        available_bytes: memory the node can give, and `reason` where that was read.
    """
    needs = [need(settings, rank) for rank in node_ranks]
    total = sum(item.total for item in needs)
    if total > available_bytes:
        parts = ", ".join(f"{name} {size}" for name, size in needs[0].rows())
        raise UserError(
            f"the model does not fit: a rank needs {bytes_text(needs[0].total)} ({parts}); {len(needs)} ranks on this "
            f"node need {bytes_text(total)}, and {bytes_text(available_bytes)} are available ({reason})",
            "fewer layers, a smaller embedding_dim, a smaller training.batch_size with more accumulation, "
            "hardware.gradient_checkpoint=true, or fewer ranks a node",
        )
    return needs[0]
