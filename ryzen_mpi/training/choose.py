"""Which strategy the settings ask for."""

from __future__ import annotations

import torch.distributed as dist

from ryzen_mpi.config import Settings
from ryzen_mpi.model.transformer import Transformer
from ryzen_mpi.training.replicated import Replicated
from ryzen_mpi.training.strategy import Strategy
from ryzen_mpi.training.zero.sharded import Sharded


def make_strategy(
    model: Transformer, settings: Settings, group: dist.ProcessGroup | None, domain: int | None = None
) -> Strategy:
    """That of `hardware.zero_stage`. Collective. Raises UserError where shared memory is too small.

    `domain`: of the NUMA domain this rank runs on, for `hardware.weights_per`; None where there are several.
    """
    if settings.hardware.zero_stage:
        return Sharded(model, settings, group, domain=domain)
    return Replicated(model, settings, group)
