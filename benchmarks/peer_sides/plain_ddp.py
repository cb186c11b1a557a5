"""What a plain PyTorch script has: DistributedDataParallel over Gloo, autocast, PyTorch's fused optimiser.

Everything a careful user of PyTorch would do is done: fused optimiser, gradients as bucket views, no needless zeroing.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from peer_sides.models import build
from peer_sides.step import PeerStep, count, make_optimizer, optimizer_arguments
from ryzen_mpi.config import Settings
from ryzen_mpi.data.source import TokenSource


class PlainStep(PeerStep):
    """One training step of the plain script. Collective: all ranks construct it and call `run` together.

    Args:
        group: of Gloo; the default group where absent.
        kind: of the model, see `models.MODELS`.
        zero: cut the optimiser's state among the ranks, with ZeroRedundancyOptimizer.
    """

    def __init__(
        self,
        settings: Settings,
        source: TokenSource,
        group: dist.ProcessGroup | None = None,
        kind: str = "plain",
        zero: bool = False,
    ) -> None:
        inner = build(kind, settings)
        parameters = count(inner)
        model = DistributedDataParallel(inner, process_group=group, gradient_as_bucket_view=True)
        if zero:
            optimizer_class, arguments = optimizer_arguments(settings)
            optimizer = ZeroRedundancyOptimizer(
                model.parameters(),
                optimizer_class=optimizer_class,
                process_group=group,
                parameters_as_bucket_view=True,  # broadcast by bucket, not parameter by parameter
                **arguments,
            )
        else:
            optimizer = make_optimizer(model, settings)
        rank, ranks = dist.get_rank(group), dist.get_world_size(group)
        super().__init__(settings, source, rank, ranks, model, optimizer, parameters)
        self.autocast = settings.hardware.dtype == "bfloat16"

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.model(tokens, targets)
