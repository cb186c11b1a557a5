"""What a rank goes through in every step, to be held against its caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ryzen_mpi.config import Settings


def working_set_bytes(settings: Settings, ranks: int, nodes: int, global_batch: int) -> int:
    """Bytes of weights, gradients, moments and a micro-batch's activations of a rank. Pure.

    Reckoned as the memory of a run is (`training.memory`), without the interpreter: a rank of a large group has smaller
    micro-batches where its share of the batch is smaller, and under ZeRO a shard of the state.
    """
    from ryzen_mpi.training.memory import need

    batch = min(settings.training.batch_size, -(-global_batch // ranks))
    training = settings.training.model_copy(update={"batch_size": batch})
    on_node = -(-ranks // nodes)
    reckoned = need(settings.model_copy(update={"training": training}), on_node, nodes)
    rest = reckoned.of("interpreter")
    return reckoned.rank - rest.rank - rest.node // on_node
